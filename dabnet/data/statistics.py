"""What training must know of a split beforehand: class shares and the mean colour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dabnet.data.dataset import Dataset
from dabnet.preprocessing import Triple


@dataclass(frozen=True, slots=True)
class SplitStatistics:
    """Measured over every pixel of a split.

    Attributes:
        class_share: share of each class among labelled pixels, float64 (K,), sums to 1.
        mean_rgb: mean of each channel, 0…255.
    """

    class_share: NDArray[np.float64]
    mean_rgb: Triple


def measure(dataset: Dataset, progress: Callable[[], None] = lambda: None) -> SplitStatistics:
    """Read the split once; ``progress`` is called after each image."""
    classes = len(dataset.labels.classes)
    pixels = np.zeros(classes, np.int64)
    colour_sum = np.zeros(3, np.float64)
    colour_count = 0
    for index in range(len(dataset)):
        item = dataset[index]
        pixels += np.bincount(item.label.reshape(-1), minlength=256)[:classes]
        colour_sum += item.image.sum((0, 1), dtype=np.int64)
        colour_count += item.label.size
        progress()
    red, green, blue = (float(value) for value in (colour_sum / colour_count).round(4))
    return SplitStatistics(pixels / max(1, int(pixels.sum())), (red, green, blue))
