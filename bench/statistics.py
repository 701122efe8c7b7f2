"""Intervals of speed, shares and percentiles, and what they say of two rows.

Speeds are compared by logarithms, one value per round: rounds are independent, calls within one are
not. A bootstrap of so few values is too narrow: its 95 % interval holds the true ratio less often
than that. Student's t holds it as often as it says.

Nor are the frames of one window independent. Intervals of their shares and percentiles are those of
as many independent frames as explain how the windows differ (Korn and Graubard, Confidence
Intervals for Proportions, Survey Methodology 24, 1998; Woodruff, 1952, for percentiles).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from dabnet.intervals import LEVEL, Interval
from dabnet.metrics import Floats

MARGIN = 0.03
"""Share by which the speeds of two rows may differ and count as equal."""
FASTER, SLOWER, EQUAL, NOT_TOLD = "faster", "slower", "equal", "not told apart"


def relative_width(interval: Interval) -> float:
    """From the lower to the upper end, as a share of the value; of 0 infinite."""
    return (interval.high - interval.low) / interval.value if interval.value else math.inf


def student_quantile(freedom: float) -> float:
    """The t within whose ± lies 95 % of Student's distribution of ``freedom`` degrees."""
    from scipy.special import stdtrit  # not scipy.stats, which takes a second to import

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


def interval_around(value: float, rounds: ArrayLike) -> Interval:
    """``value`` > 0 with the 95 % interval that the same quantity of two or more rounds gives."""
    logs = np.log(np.asarray(rounds, np.float64))
    half = student_quantile(len(logs) - 1) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    return Interval(value, value * math.exp(-half), value * math.exp(half))


def paired_ratio(reference: Sequence[float], candidate: Sequence[float]) -> Interval:
    """How many times faster than the reference, from the seconds of two or more rounds of both.

    The value is the geometric mean of the rounds' ratios: what disturbs both alike cancels. Many
    short rounds tell more than few long ones, since each turn has a level of its own (which core,
    which pages) that more calls of it do not average.
    """
    ratios = [other / own for other, own in zip(reference, candidate, strict=True)]
    return interval_around(float(np.exp(np.log(ratios).mean())), ratios)


def ratio_of_runs(old: Floats, new: Floats) -> Interval | None:
    """exp of the mean of ``new`` less that of ``old``: logarithms, one per round, of two runs.

    The interval is Welch's (``scipy.stats.ttest_ind`` with unequal variances): the rounds of two
    runs are not pairs. A change of the machine between the runs is in the value and not in the
    interval. None if a run has under two rounds.
    """
    if min(len(old), len(new)) < 2:
        return None
    parts = [float(run.var(ddof=1)) / len(run) for run in (old, new)]
    variance = sum(parts)
    half = 0.0
    if variance > 0:
        weights = (part**2 / (len(run) - 1) for part, run in zip(parts, (old, new), strict=True))
        half = student_quantile(variance**2 / sum(weights)) * math.sqrt(variance)
    value = float(new.mean() - old.mean())
    return Interval(*(math.exp(value + side * half) for side in (0, -1, 1)))


def independent_frames(hits: ArrayLike, frames: ArrayLike) -> float:
    """Number of independent frames whose share of hits would be as uncertain as that of windows.

    Never more than there are frames.

    Args:
        hits, frames: numbers (windows,) of two or more windows.
    """
    hits, frames = np.asarray(hits, np.float64), np.asarray(frames, np.float64)
    windows, total = len(frames), float(frames.sum())
    share = float(hits.sum()) / total
    effect, independent = 1.0, share * (1 - share) / total  # variance of the share
    if independent > 0:
        between = float(((hits - share * frames) ** 2).sum()) / total**2
        effect = max(1.0, windows / (windows - 1) * between / independent)
    return total / effect * (student_quantile(total - 1) / student_quantile(windows - 1)) ** 2


def share_interval(hits: ArrayLike, frames: ArrayLike) -> Interval:
    """Share of the frames that are hits, 0…1, with the interval of Clopper and Pearson (1934).

    Args:
        hits, frames: numbers (windows,) of two or more windows.
    """
    from scipy.special import betaincinv

    many = independent_frames(hits, frames)
    share = float(np.sum(hits) / np.sum(frames))
    ours, others, tail = share * many, (1 - share) * many, (1 - LEVEL) / 2
    low = float(betaincinv(ours, others + 1, tail)) if ours > 0 else 0.0
    high = float(betaincinv(ours + 1, others, 1 - tail)) if others > 0 else 1.0
    return Interval(share, low, high)


def percentile_interval(windows: Sequence[ArrayLike], percent: float) -> Interval | None:
    """A percentile of the values of all windows, with the interval between two of these values.

    None where the values are too few: where even the largest may be below the true percentile, or
    the smallest above it. The 99.9th takes 3,688 independent values, the 99th 368.
    """
    from scipy.special import bdtr

    parts = [np.asarray(values, np.float64) for values in windows]
    if len(parts) < 2:
        return None
    ordered = np.sort(np.concatenate(parts))
    value, share = float(np.percentile(ordered, percent)), percent / 100
    within = [int((values <= value).sum()) for values in parts]
    many = int(independent_frames(within, [len(values) for values in parts]))
    # How many of ``many`` values are below the percentile is binomial: 10 deviations hold it.
    spread = 10 * math.sqrt(many * share * (1 - share)) + 1
    first, last = max(0, int(many * share - spread)), min(many, int(many * share + spread) + 1)
    below = bdtr(np.arange(first, last, dtype=np.float64), many, share)
    tail = (1 - LEVEL) / 2
    low = first + int(np.searchsorted(below, tail, side="right"))
    high = first + int(np.searchsorted(below, 1 - tail)) + 1
    if low < 1 or high > many:
        return None
    ranks = (low * len(ordered) // many, -(-high * len(ordered) // many))
    return Interval(value, *(float(ordered[rank - 1]) for rank in ranks))


def verdict(ratio: Interval) -> str:
    """What the interval of a speed ratio says of two rows: the one rule of every table and choice.

    - ``equal``: all of it is within ``MARGIN``, from 1 / 1.03 to 1.03.
    - ``faster``, ``slower``: else, all of it is above or below 1.
    - ``not told apart``: anything else; ``rounds_needed`` estimates what would tell.
    """
    if ratio.low >= 1 / (1 + MARGIN) and ratio.high <= 1 + MARGIN:
        return EQUAL
    if ratio.low > 1:
        return FASTER
    return SLOWER if ratio.high < 1 else NOT_TOLD


def rounds_needed(ratio: Interval, rounds: int) -> int | None:
    """Rounds that would tell two rows apart or equal; None if they are, or if nothing can be said.

    An estimate: the ratio stays where it is, and its interval narrows with the square root of the
    number of rounds, until it leaves 1 or lies within ``MARGIN``, whichever is first.

    Args:
        rounds: that gave the ratio.
    """
    if verdict(ratio) != NOT_TOLD or min(ratio.value, ratio.low) <= 0:
        return None
    distance, half = abs(math.log(ratio.value)), math.log(ratio.high / ratio.low) / 2
    target = max(distance, math.log1p(MARGIN) - distance)
    return max(rounds + 1, math.ceil(round(rounds * (half / target) ** 2, 6)))
