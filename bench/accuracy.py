"""Accuracy of every runner on the same labelled images, at the size that is timed."""

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
class Accuracy:
    """What one runner saw.

    Attributes:
        per_image: confusion matrices, int64 (images, K, K).
        agreement: share of pixels equal to another runner's, one an image; None without another.
    """

    per_image: Counts
    agreement: NDArray[np.float64] | None


def assess(
    runners: Mapping[str, Runner],
    compared_with: Mapping[str, str],
    dataset: Dataset,
    size: tuple[int, int],
    images: int,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, Accuracy]:
    """Run every runner on the first ``images`` images of the split, resized to ``size``.

    Images are resized bilinearly, labels by the nearest pixel. ``compared_with`` names for a runner
    the other one whose masks its own are compared with, pixel by pixel. ``progress`` is called
    after each image.
    """
    classes = len(dataset.labels.classes)
    matrices: dict[str, list[Counts]] = {name: [] for name in runners}
    equal: dict[str, list[float]] = {name: [] for name in runners}
    for index in range(min(images, len(dataset))):
        item = resize(dataset[index], size)
        masks = {}
        for name, runner in runners.items():
            batch = np.repeat(item.image[None], runner.info.shape[0], axis=0)
            masks[name] = runner.infer(batch)[0]
            matrices[name].append(confusion(masks[name], item.label, classes))
        for name, other in compared_with.items():
            equal[name].append(float((masks[name] == masks[other]).mean()))
        progress()
    return {
        name: Accuracy(
            np.stack(matrices[name]), np.array(equal[name]) if name in compared_with else None
        )
        for name in runners
    }
