"""Helpers of the tests of training: a small data set, a short run, a comparison of runs."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dabnet.training.learner
from dabnet.checkpoint import Checkpoint, load_checkpoint
from dabnet.cli import main
from dabnet.data.camvid import CamVid
from dabnet.metrics import Counts, confusion
from dabnet.models.image_to_mask import ImageToMask
from dabnet.training.loop import train
from dabnet.training.losses import build_loss
from dabnet.training.recipes import Recipe
from dabnet.training.spec import TrainingResult, TrainingSpec

torch.set_num_threads(1)

RECIPE = Recipe(input_size=(32, 32), batch_size=2, max_epochs=3, lr=2e-3)
PER_EPOCH, TOTAL = 3, 9


def spec_for(output: Path, **changes: Any) -> TrainingSpec:
    spec = TrainingSpec(
        model="dabnet",
        recipe=RECIPE,
        output=output,
        device=torch.device("cpu"),
        seed=5,
        eval_every=2,
        save_seconds=0.0,  # after each iteration
    )
    return replace(spec, **changes)


def run(tree: Path, spec: TrainingSpec, split: str = "train") -> TrainingResult:
    return train(spec, CamVid(tree, split), CamVid(tree, "val"))


def log_of(output: Path) -> list[dict[str, str]]:
    with (output / "log.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def without_speed(output: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k != "images_per_s"} for row in log_of(output)]


def assert_same_run(output: Path, expected: Path) -> None:
    """Weights, optimiser, schedule, log and best checkpoint are equal, bit for bit."""
    assert without_speed(output) == without_speed(expected)
    for name in ("last.pth", "best.pth"):
        ours, theirs = load_checkpoint(output / name), load_checkpoint(expected / name)
        assert ours.epoch == theirs.epoch
        assert ours.metrics == theirs.metrics
        assert ours.state.keys() == theirs.state.keys()
        assert all(torch.equal(ours.state[k], theirs.state[k]) for k in theirs.state)
    ours, theirs = (load_checkpoint(folder / "last.pth") for folder in (output, expected))
    # PyTorch's own counter only serves a warning, and begins anew where a run is shortened.
    schedules = [c.training["schedule"] | {"_step_count": 0} for c in (ours, theirs)]
    assert schedules[0] == schedules[1]
    moments = theirs.training["optimiser"]["state"]
    for index, values in ours.training["optimiser"]["state"].items():
        assert all(torch.equal(values[k], moments[index][k]) for k in values)


class AtCall(nn.Module):
    """A criterion that does something once, in its n-th call."""

    def __init__(self, inner: nn.Module, call: int, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.left, self.act = inner, call, act

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self.left -= 1
        total, weight = self.inner(logits, labels)
        return (self.act(total) if self.left == 0 else total), weight


def in_call(monkeypatch: pytest.MonkeyPatch, call: int, act: Callable[[Tensor], Tensor]) -> None:
    def criterion(*arguments: Any) -> nn.Module:
        return AtCall(build_loss(*arguments), call, act)

    monkeypatch.setattr(dabnet.training.learner, "build_loss", criterion)


def sends(number: int) -> Callable[[Tensor], Tensor]:
    def act(loss: Tensor) -> Tensor:
        os.kill(os.getpid(), number)
        return loss

    return act


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Run dabnet-train in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["dabnet-train", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert isinstance(stop.value.code, int)
    return stop.value.code


def confusion_of(network: nn.Module, checkpoint: Checkpoint, tree: Path) -> Counts:
    """The confusion matrix (K, K) of a network on the validation images of a checkpoint."""
    module = ImageToMask(network, checkpoint.preprocessing).eval()
    classes = len(checkpoint.labels.classes)
    with torch.inference_mode():
        matrices = [
            confusion(module(torch.tensor(item.image[None]))[0].numpy(), item.label, classes)
            for item in iter(CamVid(tree, "val"))
        ]
    return np.sum(matrices, axis=0)
