"""Percentiles, and intervals that say how far a number can be trusted. Seeded, pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dabnet.intervals import LEVEL, Interval

if TYPE_CHECKING:
    from bench.record import Turn


@dataclass(frozen=True, slots=True)
class Latency:
    """Summary of raw latencies of a call in milliseconds; no sample is trimmed."""

    calls: int
    min_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    iqr_ms: float


def latency(turns: Sequence[Turn]) -> Latency | None:
    """Summarise the calls of the counted turns; None where there are none."""
    counted = [turn.samples_ns for turn in turns if turn.counted]
    if not counted:
        return None
    ms = np.concatenate([np.array(samples, np.float64) for samples in counted]) / 1e6
    p25, p50, p75, p90, p95, p99 = (float(p) for p in np.percentile(ms, (25, 50, 75, 90, 95, 99)))
    return Latency(
        calls=len(ms),
        min_ms=float(ms.min()),
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        iqr_ms=p75 - p25,
    )


def fps_of_turns(turns: Sequence[Turn], batch: int) -> Interval | None:
    """Frames a second: frames by time over all counted turns, so that slow calls count.

    The interval is Student's over the rounds' logarithms; without a second round it is unknown,
    and so is the result.
    """
    counted = [turn for turn in turns if turn.counted]
    if len(counted) < 2:
        return None
    frames = np.array([batch * len(turn.samples_ns) for turn in counted], np.float64)
    seconds = np.array([turn.wall_s for turn in counted])
    value, logs = float(frames.sum() / seconds.sum()), np.log(frames / seconds)
    half = _half_width(logs)
    return Interval(value, value * math.exp(-half), value * math.exp(half))


def speed_ratio(reference: Sequence[Turn], candidate: Sequence[Turn]) -> Interval | None:
    """How many times faster than the reference: above 1 is faster. None with under two rounds.

    Each round that counted for both gives one ratio: of median latencies or, where calls
    overlapped, of the time a call took from the whole turn. See ``paired_ratio``.
    """
    ours, theirs = (seconds_by_round(turns) for turns in (candidate, reference))
    rounds = sorted(ours.keys() & theirs)
    if len(rounds) < 2:
        return None
    return paired_ratio([theirs[number] for number in rounds], [ours[number] for number in rounds])


def paired_ratio(reference: Sequence[float], candidate: Sequence[float]) -> Interval:
    """How many times faster than the reference, from the seconds of two or more rounds of both.

    What disturbs both alike cancels. The interval is Student's on the logarithms of the rounds'
    ratios. A bootstrap of so few is too narrow: at 10 rounds its 95 % interval held the true ratio
    in 85 to 90 % of simulated runs, at 2 in 50 %. Many short rounds tell more than few long ones:
    a turn has a level of its own (which core, which pages), which more calls of it do not average.
    """
    pairs = zip(reference, candidate, strict=True)
    logs = np.log([other / own for other, own in pairs])
    half = _half_width(logs)
    low, value, high = (float(np.exp(logs.mean() + side * half)) for side in (-1, 0, 1))
    return Interval(value, low, high)


def seconds_by_round(turns: Sequence[Turn]) -> dict[int, float]:
    """Round → seconds a call."""
    found = {}
    for turn in turns:
        if turn.counted:
            samples = np.array(turn.samples_ns, np.float64) / 1e9
            overlap = samples.sum() > 1.01 * turn.wall_s
            found[turn.round] = turn.wall_s / len(samples) if overlap else float(np.median(samples))
    return found


def _half_width(logs: NDArray[np.float64]) -> float:
    """Half of the 95 % interval of the mean of one logarithm a round, at least two."""
    return float(student_quantile(len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs)))


def student_quantile(freedom: int) -> float:
    """The t within whose ± Student's distribution of ``freedom`` >= 1 degrees has 95 %."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # bisection, to the last bit
        middle = (low + high) / 2
        low, high = (middle, high) if _student_share(middle, freedom) < LEVEL else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _student_share(angle: float, freedom: int) -> float:
    """Share within ±t, where t = tan(angle)·√freedom (Abramowitz & Stegun 26.7.3 and 26.7.4)."""
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for k in range(odd, freedom - 1, 2):
        total += term
        term *= (k + 1) / (k + 2) * math.cos(angle) ** 2
    share = math.sin(angle) * total
    return (angle + share) * 2 / math.pi if odd else share


def verdict(ratio: Interval) -> str:
    """``faster``, ``slower``, or ``indistinguishable`` where the interval holds 1."""
    if ratio.low > 1:
        return "faster"
    if ratio.high < 1:
        return "slower"
    return "indistinguishable"
