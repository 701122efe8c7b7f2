"""How far one run's numbers are from another's, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bench.record import Score, Turn
from bench.statistics import seconds_by_round, student_quantile
from dabnet.intervals import Interval, bounds, mean_of_classes, resampled_miou
from dabnet.metrics import Floats


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
    (hits, unions), (new_hits, new_unions) = (
        (np.array(score.hits), np.array(score.unions)) for score in (old, new)
    )
    before = resampled_miou(hits, unions)
    low, high = bounds(resampled_miou(new_hits, new_unions, seed=0 if paired else 1) - before)
    value = mean_of_classes(new_hits.sum(0).astype(float), new_unions.sum(0).astype(float))
    value = value - mean_of_classes(hits.sum(0).astype(float), unions.sum(0).astype(float))
    return Interval(float(value), low, high)
