"""Runners of one process, scored on the same images: each row of int8_accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dabnet.data.dataset import Dataset
from dabnet.data.transforms import resize
from dabnet.metrics import Counts, confusion
from dabnet.runtime.runner import Runner


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
