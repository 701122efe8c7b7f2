"""Runners that are already open, measured in one process: for what has no artifact to be opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.backend import Recipe
from bench.record import Turn
from bench.rounds import InProcess, Interleaved, NoWatch
from bench.scenario import Scenario
from bench.timer import Timer
from dabnet.data.dataset import Dataset
from dabnet.data.transforms import resize
from dabnet.metrics import Counts, confusion
from dabnet.runtime.runner import Runner, Uint8Array


@dataclass(frozen=True, slots=True)
class Scores:
    """What one runner saw.

    Attributes:
        per_image: confusion matrices, int64 (images, K, K).
        agreement: share of pixels equal to another runner's, one an image; None without another.
    """

    per_image: Counts
    agreement: NDArray[np.float64] | None


def scores_of(
    runners: Mapping[str, Runner],
    compared_with: Mapping[str, str],
    dataset: Dataset,
    size: tuple[int, int],
    images: int,
    step: Callable[[], None],
) -> dict[str, Scores]:
    """Run every runner on the first ``images`` images of the split, resized to ``size``.

    ``compared_with`` names for a runner the other one whose masks its own are compared with.
    """
    classes = len(dataset.labels.classes)
    matrices: dict[str, list[Counts]] = {name: [] for name in runners}
    equal: dict[str, list[float]] = {name: [] for name in compared_with}
    for index in range(images):
        item = resize(dataset[index], size)
        masks = {name: runner.infer(item.image[None])[0] for name, runner in runners.items()}
        for name, mask in masks.items():
            matrices[name].append(confusion(mask, item.label, classes))
        for name, other in compared_with.items():
            equal[name].append(float((masks[name] == masks[other]).mean()))
        step()
    return {
        name: Scores(np.stack(matrices[name]), np.array(equal[name]) if name in equal else None)
        for name in runners
    }


def turns_of(
    runners: Mapping[str, Runner],
    inputs: Sequence[Uint8Array],
    rounds: int,
    round_seconds: float,
    step: Callable[[], None],
) -> dict[str, list[Turn]]:
    """Time every runner in interleaved rounds, from host to host; ``step`` follows each round."""
    timers = {
        name: InProcess(Timer(Recipe(lambda runner: runner, {"runner": runner}, Path()), inputs))
        for name, runner in runners.items()
    }
    scenario = Scenario(scopes=("host",), rounds=rounds, min_time_s=rounds * round_seconds)
    interleaved = Interleaved(timers, scenario, NoWatch())
    interleaved.warm_up()
    interleaved.run(step)
    return {name: scopes["host"] for name, scopes in interleaved.turns.items()}
