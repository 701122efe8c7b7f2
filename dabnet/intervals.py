"""Mean IoU of a set of images, and of two sets of predictions for them, with 95 % intervals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dabnet.metrics import Counts, Floats, mean_iou

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
    low, high = bounds(resampled_miou(*hits_and_unions(per_image)))
    return Interval(float(mean_iou(per_image.sum(0))), low, high)


def miou_difference(candidate: Counts, reference: Counts) -> Interval:
    """Mean IoU of the candidate less that of the reference, on the same images, paired."""
    value = float(mean_iou(candidate.sum(0)) - mean_iou(reference.sum(0)))
    # The generator is seeded alike, so both are resampled with the same images.
    ours, theirs = (resampled_miou(*hits_and_unions(counts)) for counts in (candidate, reference))
    low, high = bounds(ours - theirs)
    return Interval(value, low, high)


def hits_and_unions(per_image: Counts) -> tuple[Counts, Counts]:
    """Pixels of each image and class, both (images, K), whose sums give each IoU."""
    hits = np.diagonal(per_image, axis1=1, axis2=2)
    return hits, per_image.sum(1) + per_image.sum(2) - hits


def resampled_miou(hits: Counts, unions: Counts, seed: int = 0) -> Floats:
    """Mean IoU of ``RESAMPLES`` sets of as many images, drawn from these with repetition.

    Args:
        hits, unions: as ``hits_and_unions`` returns them.
        seed: alike for sets that are to hold the same images.
    """
    draws = _draws(len(hits), seed)
    return mean_of_classes(draws @ hits.astype(np.float64), draws @ unions.astype(np.float64))


def mean_of_classes(hits: Floats, unions: Floats) -> Floats:
    """(…, K) → (…): mean IoU over the classes that occur, as ``dabnet.metrics.mean_iou``."""
    present = unions > 0
    iou = np.divide(hits, unions, out=np.zeros_like(hits), where=present)
    return np.asarray(iou.sum(-1) / np.maximum(present.sum(-1), 1))


@lru_cache(maxsize=4)
def _draws(images: int, seed: int) -> Floats:
    """(resamples, images): how often each image is drawn."""
    random = np.random.default_rng(seed)
    drawn = random.multinomial(images, np.full(images, 1 / images), size=RESAMPLES)
    return drawn.astype(np.float64)


def bounds(values: Floats) -> tuple[float, float]:
    """The quantiles between which ``LEVEL`` of the values lie."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, (tail, 1 - tail))
    return float(low), float(high)
