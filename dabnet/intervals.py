"""95 % intervals over images by percentile bootstrap, seeded: the images are resampled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dabnet.metrics import Counts, Floats, hits_and_unions, mean_iou, mean_of_classes

RESAMPLES = 2000
LEVEL = 0.95
_MANY = 10_000  # images whose draws are kept: 160 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """A point estimate and its 95 % interval."""

    value: float
    low: float
    high: float


def miou_interval(per_image: Counts) -> Interval:
    """Mean IoU of a set of images (images, K, K), 0…1."""
    resampled = resampled_miou(*hits_and_unions(per_image))
    return Interval(float(mean_iou(per_image.sum(0))), *bounds(resampled))


def miou_difference(candidate: Counts, reference: Counts) -> Interval:
    """Mean IoU of the candidate less that of the reference, on the same images, paired."""
    # The generator is seeded alike, so both are resampled with the same images.
    ours, theirs = (resampled_miou(*hits_and_unions(counts)) for counts in (candidate, reference))
    value = float(mean_iou(candidate.sum(0)) - mean_iou(reference.sum(0)))
    return Interval(value, *bounds(ours - theirs))


def mean_bounds(values: Floats) -> tuple[float, float]:
    """The interval of the mean of one value per image, float64 (images,)."""
    return bounds(
        np.concatenate([draws @ values for draws in _blocks(len(values), 0)]) / len(values)
    )


def resampled_miou(hits: Counts, unions: Counts, seed: int = 0) -> Floats:
    """Mean IoU of ``RESAMPLES`` sets of as many images, drawn from these with repetition.

    One matrix product: ``scipy.stats.bootstrap`` takes longer, and cannot draw the same images for
    two sets.

    Args:
        hits, unions: (images, K), as ``dabnet.metrics.hits_and_unions`` returns them.
        seed: alike for sets that are to hold the same images.
    """
    ours, theirs = hits.astype(np.float64), unions.astype(np.float64)
    blocks = (mean_of_classes(draws @ ours, draws @ theirs) for draws in _blocks(len(hits), seed))
    return np.concatenate(list(blocks))


def _blocks(images: int, seed: int) -> Iterator[Floats]:
    """Yield ``_draws`` in parts of at most 160 MB."""
    if images <= _MANY:
        yield _draws(images, seed)
        return
    random = np.random.default_rng(seed)
    share = np.full(images, 1 / images)
    for start in range(0, RESAMPLES, 200):
        size = min(200, RESAMPLES - start)
        yield random.multinomial(images, share, size=size).astype(np.float64)


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
