"""Percentiles, and intervals that say how far a number can be trusted. Seeded, pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dabnet.intervals import LEVEL, Interval


@dataclass(frozen=True, slots=True)
class Latency:
    """Summary of raw latencies: milliseconds, and frames a second.

    ``fps`` is frames by total time, so slow calls count; no sample is trimmed.
    """

    calls: int
    fps: float
    min_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    iqr_ms: float


def latency(samples_ns: NDArray[np.int64], batch: int) -> Latency:
    """Summarise the latency of calls in nanoseconds, of ``batch`` frames each."""
    ms = samples_ns / 1e6
    p25, p50, p75, p90, p95, p99 = (float(p) for p in np.percentile(ms, (25, 50, 75, 90, 95, 99)))
    return Latency(
        calls=len(ms),
        fps=float(batch * len(ms) / (ms.sum() / 1e3)),
        min_ms=float(ms.min()),
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        iqr_ms=p75 - p25,
    )


def speed_ratio(
    reference_rounds: list[NDArray[np.int64]], candidate_rounds: list[NDArray[np.int64]]
) -> Interval:
    """How many times faster than the reference: above 1 is faster.

    Each round gives one ratio of medians, so that what disturbs both alike cancels. The interval
    is Student's on the logarithms. A bootstrap of so few rounds is too narrow: at 10 rounds its
    95 % interval held the true ratio in 85 to 90 % of simulated runs, at 2 in 50 %.
    """
    pairs = zip(reference_rounds, candidate_rounds, strict=True)
    logs = np.log([np.median(reference) / np.median(candidate) for reference, candidate in pairs])
    half = student_quantile(len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs))
    low, value, high = (float(np.exp(logs.mean() + side * half)) for side in (-1, 0, 1))
    return Interval(value, low, high)


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
