"""Mean IoU of a set of images, and of two sets of predictions for them, with 95 % intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dabnet.metrics import Counts, mean_iou

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A point estimate and its 95 % interval."""

    value: float
    low: float
    high: float


def miou_interval(per_image: Counts) -> Interval:
    """Mean IoU of a set of images (images, K, K), 0…1; the images are resampled."""
    low, high = _bounds(_resampled_miou(per_image))
    return Interval(float(mean_iou(per_image.sum(0))), low, high)


def miou_difference(candidate: Counts, reference: Counts) -> Interval:
    """Mean IoU of the candidate less that of the reference, on the same images, paired."""
    value = float(mean_iou(candidate.sum(0)) - mean_iou(reference.sum(0)))
    # The generator is seeded alike, so both are resampled with the same images.
    low, high = _bounds(_resampled_miou(candidate) - _resampled_miou(reference))
    return Interval(value, low, high)


def _resampled_miou(per_image: Counts) -> NDArray[np.float64]:
    images, classes, _ = per_image.shape
    random = np.random.default_rng(0)
    times_drawn = random.multinomial(images, np.full(images, 1 / images), size=RESAMPLES)
    flat = per_image.reshape(images, -1).astype(np.float64)
    resampled = (times_drawn @ flat).reshape(RESAMPLES, classes, classes)
    return np.asarray(mean_iou(resampled.astype(np.int64)))


def _bounds(values: NDArray[np.float64]) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, (tail, 1 - tail))
    return float(low), float(high)
