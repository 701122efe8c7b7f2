"""Curves and predictions on a visdom server, by a double of the package's client."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.training_runs import RECIPE, command, log_of, run, spec_for


class Visdom:
    """The calls of visdom.Visdom that the log makes (fossasia/visdom, py/visdom/__init__.py)."""

    made: list[Visdom]
    answers = True

    def __init__(
        self, *, env: str, raise_exceptions: bool | None, use_incoming_socket: bool
    ) -> None:
        assert raise_exceptions
        assert not use_incoming_socket
        self.env, self.lines, self.images, self.closed = env, dict[str, Any](), list[Any](), 0
        self.gone = False
        self.made.append(self)

    def check_connection(self, timeout_seconds: float = 0) -> bool:
        return self.answers

    def close(self, win: str | None = None, env: str | None = None) -> None:
        self.closed += 1

    def line(
        self, Y: Any, X: Any = None, win: str = "", update: str = "", opts: Any = None
    ) -> None:
        if self.gone:
            raise ConnectionError("Error connecting to Visdom server")
        assert Y.ndim == X.ndim == 1
        assert (len(X), update, opts["title"]) == (len(Y), "append", win)
        self.lines.setdefault(win, []).extend(zip(X.tolist(), Y.tolist(), strict=True))

    def image(self, img: Any, win: str = "", opts: Any = None) -> None:
        self.images.append((win, img))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> type[Visdom]:
    module: Any = ModuleType("visdom")
    module.Visdom = Visdom
    monkeypatch.setattr(Visdom, "made", [], raising=False)
    monkeypatch.setitem(sys.modules, "visdom", module)
    return Visdom


def test_curves_and_predictions_go_to_the_server(
    tree: Path, tmp_path: Path, server: type[Visdom]
) -> None:
    output = tmp_path / "the-run"
    run(tree, spec_for(output, recipe=replace(RECIPE, max_epochs=2), visdom=True))
    (client,) = server.made
    assert (client.env, client.closed) == ("the-run", 1)
    assert [step for step, _ in client.lines["train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in client.lines["train/lr"]] == [1, 2, 3, 4, 5, 6]
    rows = log_of(output)
    losses = [value for _, value in client.lines["train/loss"]]
    assert np.mean(losses[:3]) == pytest.approx(float(rows[0]["loss"]), rel=1e-6)
    assert client.lines["val/miou"] == [(6, float(rows[1]["val_miou"]))]
    ((tag, picture),) = client.images
    with Image.open(output / "predictions.png") as shown:
        assert (tag, picture.shape) == ("predictions", (3, shown.height, shown.width))
        assert (picture == np.asarray(shown).transpose(2, 0, 1)).all()


def test_a_server_that_ends_does_not_end_the_run(
    tree: Path, tmp_path: Path, server: type[Visdom], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Visdom, "close", lambda client: setattr(client, "gone", True))
    result = run(tree, spec_for(tmp_path, recipe=replace(RECIPE, max_epochs=1), visdom=True))
    assert result.finished
    assert server.made[0].lines == {}


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        (False, "the package 'visdom' is not installed; install it with: pip install '.[visdom]'"),
        (
            True,
            "--visdom: no server at http://localhost:8097; expected a visdom server; start one"
            " with: python -m visdom.server, or leave --visdom out",
        ),
    ],
)
def test_without_a_server_it_is_one_line_before_training(
    tree: Path,
    tmp_path: Path,
    server: type[Visdom],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    installed: bool,
    message: str,
) -> None:
    monkeypatch.setattr(Visdom, "answers", False)
    if not installed:
        monkeypatch.setitem(sys.modules, "visdom", None)
    words = ["--data-dir", tree, "--output", tmp_path / "run", "--input-size", "32x32", "--visdom"]
    assert command(monkeypatch, *words, "--cache-dir", tmp_path / "cache") == 2
    assert capfd.readouterr().err == f"error: {message}\n"
    assert not (tmp_path / "run").exists()
