"""An encoder trained as a classifier of pictures, and what the next stage takes of it."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dabnet.checkpoint import load_checkpoint
from dabnet.errors import InputError
from dabnet.training import pretraining
from dabnet.training.learner import Learner
from dabnet.training.pretraining import Pictures
from dabnet.training.stages import encoder_classifier
from tests.support.training_runs import command, in_call, sends

COLOURS = {"blue": (20, 30, 200), "green": (10, 180, 30), "red": (210, 20, 10)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy pictures of three colours, each of another size: 4 of each to train on, 2 to test."""
    root, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(2)
    for split, count in (("train", 4), ("val", 2)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                noise = random.integers(0, 40, (30 + number, 45, 3))
                pixels = np.clip(noise + colour, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def test_crops_are_drawn_by_the_seed_and_validation_sees_the_centre(pictures: Path) -> None:
    drawn = Pictures(pictures, "train", (16, 24), seed=3)
    assert (drawn.classes, len(drawn)) == (("blue", "green", "red"), 12)
    first, label = drawn[0, 5]
    assert (first.shape, label.tolist()) == ((16, 24, 3), [[1]])
    assert torch.equal(drawn[0, 5][0], first)
    assert not torch.equal(drawn[1, 5][0], first)
    whole = Pictures(pictures, "val", (16, 16))
    with Image.open(pictures / "val/blue/0.png") as picture:  # 30 x 45: 26.25 around its centre
        box = (9.375, 1.875, 35.625, 28.125)
        expected = np.asarray(picture.resize((16, 16), Image.Resampling.BILINEAR, box))
    assert (whole[0, 0][0].numpy() == expected).all()


@pytest.mark.slow
def test_an_encoder_learns_pictures_continues_exactly_and_serves_the_next_stage(
    pictures: Path,
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    stage = ["--stage", "classifier", "--data-dir", pictures]
    words = [*stage, "--model", "erfnet", "--input-size", "16x16", "--optimizer", "adam"]
    words += ["--lr", 2e-3, "--batch-size", 6, "--max-epochs", 16]
    assert command(monkeypatch, *words, "--output", tmp_path / "a") == 0
    told = re.findall(r"loss (\S+)  val accuracy (\S+) %", capfd.readouterr().err)
    assert len(told) == 16
    assert float(told[-1][0]) < 0.2 * float(told[0][0])
    network = encoder_classifier("erfnet", 3)
    network.load_state_dict(torch.load(tmp_path / "a/last.pth")["state_dict"])
    whole = Pictures(pictures, "val", (16, 16))
    with torch.inference_mode():
        right = [
            int(network.eval()(pixels[None].permute(0, 3, 1, 2) / 255).argmax()) == int(label)
            for pixels, label in (whole[0, index] for index in range(len(whole)))
        ]
    assert told[-1][1] == f"{100 * sum(right) / 6:.2f}"

    with monkeypatch.context() as patch:
        in_call(patch, 11, sends(signal.SIGINT))
        assert command(monkeypatch, *words, "--output", tmp_path / "b") == 130
    assert command(monkeypatch, *stage, "--resume", tmp_path / "b") == 0
    ours, theirs = (torch.load(tmp_path / name / "last.pth") for name in ("a", "b"))
    assert ours["epoch"] == theirs["epoch"] == 16
    for name, tensor in ours["state_dict"].items():
        assert torch.equal(tensor, theirs["state_dict"][name]), name

    with pytest.raises(InputError, match="is a classifier of --stage classifier; expected"):
        load_checkpoint(tmp_path / "a/best.pth")
    words = ["--data-dir", tree, "--model", "erfnet", "--stage", "encoder", "--max-epochs", 1]
    words += ["--input-size", "32x32", "--lr", 1e-5, "--no-tensorboard"]
    start = ["--encoder", tmp_path / "a/best.pth", "--output", tmp_path / "next"]
    assert command(monkeypatch, *words, *start) == 0
    name = "encoder.initial_block.conv.weight"
    best = torch.load(tmp_path / "a/best.pth")["state_dict"]["features." + name]
    trained = load_checkpoint(tmp_path / "next/last.pth").state[name]
    assert 0 < float((trained - best).abs().max()) < 1e-4


def test_dilations_are_those_of_the_run(
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    made: list[Learner] = []

    def seen(*given: Any) -> Learner:
        made.append(Learner(*given))
        return made[-1]

    monkeypatch.setattr(pretraining, "Learner", seen)
    stage = ["--stage", "classifier", "--data-dir", pictures]
    words = [*stage, "--model", "erfnet", "--input-size", "16x16", "--max-epochs", 1]
    words += ["--dilations", "1,1,2,3,1,1,2,3", "--output", tmp_path / "run"]
    assert command(monkeypatch, *words) == 0
    assert command(monkeypatch, *stage, "--resume", tmp_path / "run") == 0
    for learner in made:
        found = {m.dilation[0] for m in learner.network.modules() if isinstance(m, nn.Conv2d)}
        assert found == {1, 2, 3}
    again = [*stage, "--resume", tmp_path / "run", "--dilations", "2,4,8,16,2,4,8,16"]
    assert command(monkeypatch, *again) == 2
    assert "whose run differs in dilations" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--stage classifier for dabnet, whose encoder has no outputs; expected --model"),
        (["--dataset", "camvid"], "--stage classifier with --dataset; expected"),
        (["--model", "lednet", "--max-minutes", "1"], "--stage classifier and --max-minutes;"),
        (["--model", "lednet", "--visdom"], "--stage classifier and --visdom;"),
    ],
)
def test_what_does_not_fit_a_classifier_is_one_line(
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    given = ["--stage", "classifier", "--data-dir", pictures, "--output", tmp_path / "a", *words]
    assert command(monkeypatch, *given) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"error: {message}"), error
    assert error.count("\n") == 1
    assert not (tmp_path / "a").exists()
