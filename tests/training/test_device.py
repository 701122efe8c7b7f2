"""Which GPU a run takes, and the half precision that goes with it, without one."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dabnet.training.learner import fastest_amp
from dabnet.training.processes import Processes
from dabnet.training.spec import TrainingSpec
from tests.support.training_runs import command

SECOND = torch.device("cuda", 1)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch sees a GTX 1080 Ti and an RTX 3090."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    capabilities = {0: (6, 1), 1: (8, 6)}
    monkeypatch.setattr(
        "torch.cuda.get_device_capability", lambda device: capabilities[device.index]
    )


def spec_of(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *words: object
) -> TrainingSpec:
    """The request that the command makes of its words."""
    asked: list[TrainingSpec] = []

    def train(spec: TrainingSpec, *_: Any) -> Any:
        asked.append(spec)
        return SimpleNamespace(confusion=None, best_miou=None, finished=True)

    monkeypatch.setattr("dabnet.training.loop.train", train)
    given = ["--data-dir", tree, "--output", tmp_path / "run", *words]
    assert command(monkeypatch, *given) == 0
    return asked[0]


@pytest.mark.parametrize(
    ("words", "amp"),
    [
        (["--device", "cuda:1", "--max-minutes", 15], "bf16"),
        (["--device", "cuda", "--max-minutes", 15], "off"),  # Pascal
        (["--device", "cpu", "--max-minutes", 15], "off"),
        (["--device", "cuda:1"], "off"),  # the published recipe
        (["--device", "cuda:1", "--max-minutes", 15, "--amp", "fp16"], "fp16"),
        (["--device", "cuda:1", "--max-minutes", 15, "--amp", "off"], "off"),
    ],
)
def test_a_limit_brings_the_half_precision_of_the_card(
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    two_gpus: None,
    words: list[object],
    amp: str,
) -> None:
    spec = spec_of(tree, tmp_path, monkeypatch, *words)
    assert spec.recipe.amp == amp
    assert str(spec.device) == {"cuda": "cuda:0"}.get(str(words[1]), words[1])


def test_fine_tuning_stays_float32(
    tree: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_gpus: None
) -> None:
    words = ["--device", "cuda:1", "--max-minutes", 15, "--qat", whole / "best.pth"]
    assert spec_of(tree, tmp_path, monkeypatch, *words).recipe.amp == "off"


@pytest.mark.parametrize(
    ("capability", "amp"),
    [((6, 1), "off"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((12, 0), "bf16")],
)
def test_half_precision_by_compute_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], amp: str
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: capability)
    assert fastest_amp(SECOND) == amp
    assert fastest_amp(torch.device("cpu")) == "off"


@pytest.mark.parametrize("size", [1, 2])
def test_the_gpu_of_a_run_is_the_current_one(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    current, said = [0], []

    @contextmanager
    def device(wanted: torch.device) -> Any:
        current.append(wanted.index)
        yield
        current.pop()

    for name in ("barrier", "destroy_process_group"):
        monkeypatch.setattr(
            f"torch.distributed.{name}", lambda *a, n=name: said.append((n, *a, current[-1]))
        )
    monkeypatch.setattr("torch.cuda.device", device)
    monkeypatch.setattr(
        Processes, "_join", lambda _, kind: said.append(("init_process_group", kind, current[-1]))
    )
    with Processes(0, size).joined(SECOND):
        assert current == [0, 1]
    assert current == [0]
    between = [("init_process_group", "nccl", 1), ("barrier", 1), ("destroy_process_group", 1)]
    assert said == (between if size == 2 else [])
    with Processes().joined(torch.device("cpu")):
        assert current == [0]
