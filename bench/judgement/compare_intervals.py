"""How far one run's numbers are from another's, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bench.record import Score, Turn
from bench.statistics import seconds_by_round as seconds_by_round
from bench.statistics import student_quantile
from dabnet.intervals import LEVEL, RESAMPLES, Interval

Floats = NDArray[np.float64]


def log_times(turns: Sequence[Turn]) -> Floats:
    """Logarithm of the seconds a call takes, one of each round that counts."""
    return np.log(list(seconds_by_round(turns).values()))


def log_ratios(reference: Sequence[Turn], row: Sequence[Turn]) -> Floats:
    """Logarithm of how many times faster than the reference, of rounds that count for both."""
    theirs, ours = seconds_by_round(reference), seconds_by_round(row)
    return np.log([theirs[number] / ours[number] for number in sorted(ours.keys() & theirs)])


def ratio_of_runs(old: Floats, new: Floats) -> Interval | None:
    """exp of the mean of ``new`` less that of ``old``: logarithms, one a round, of two runs.

    The interval is Welch's (two variances, Student's t at Satterthwaite's degrees of freedom): the
    rounds of two runs are not pairs. It holds what varies within a run and nothing else; how far
    the machine itself has moved between the runs is in the value and not in the interval. None
    where a run has under two rounds.
    """
    if min(len(old), len(new)) < 2:
        return None
    shares = [float(run.var(ddof=1)) / len(run) for run in (old, new)]
    variance = sum(shares)
    freedom = len(old) + len(new) - 2
    if variance > 0:
        parts = (share**2 / (len(run) - 1) for share, run in zip(shares, (old, new), strict=True))
        freedom = max(1, math.floor(variance**2 / sum(parts)))
    half = student_quantile(freedom) * math.sqrt(variance)
    value = float(new.mean() - old.mean())
    low, middle, high = (math.exp(value + side * half) for side in (-1, 0, 1))
    return Interval(middle, low, high)


def miou_change(old: Score, new: Score, paired: bool) -> Interval:
    """Mean IoU of ``new`` less that of ``old``, 0…1; images are resampled.

    Args:
        paired: both are of the same images in the same order, and are resampled together.
    """
    before = _resampled(old, seed=0)
    after = _resampled(new, seed=0 if paired else 1)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(after - before, (tail, 1 - tail))
    return Interval(_miou(new) - _miou(old), float(low), float(high))


def _resampled(score: Score, seed: int) -> Floats:
    hits, unions = np.array(score.hits, np.float64), np.array(score.unions, np.float64)
    draws = _draws(len(hits), seed)
    return _mean_iou(draws @ hits, draws @ unions)


@lru_cache(maxsize=4)
def _draws(images: int, seed: int) -> Floats:
    """(resamples, images): how often each image is drawn; the same for all rows of a record."""
    random = np.random.default_rng(seed)
    return random.multinomial(images, np.full(images, 1 / images), size=RESAMPLES).astype(
        np.float64
    )


def _miou(score: Score) -> float:
    hits, unions = np.array(score.hits, np.float64), np.array(score.unions, np.float64)
    return float(_mean_iou(hits.sum(0), unions.sum(0)))


def _mean_iou(hits: Floats, unions: Floats) -> Floats:
    """(…, K) → (…): mean over the classes that occur, as ``dabnet.metrics.mean_iou``."""
    present = unions > 0
    iou = np.divide(hits, unions, out=np.zeros_like(hits), where=present)
    return np.asarray(iou.sum(-1) / np.maximum(present.sum(-1), 1))
