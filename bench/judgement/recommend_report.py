"""A recommendation → lines of text."""

from __future__ import annotations

import math

from bench.judgement.recommend import Bounds, Candidate, Check, Recommendation
from bench.record import Report
from bench.report import figures
from dabnet.intervals import Interval

_CALLS_FOR = {"p50": 2, "p95": 20, "p99": 100}
"""Calls below which a percentile is little else than the slowest call."""


def recommendation_lines(found: Recommendation, report: Report) -> list[str]:
    """Say what to ship and why; without such a row what each one misses by how much."""
    of = f"{found.setting}, scope {found.bounds.scope}; {_wanted(found.bounds)}"
    chosen = found.chosen
    others = [f"  {name}: not considered: {why}" for name, why in found.excluded.items()]
    misses = [f"  {c.row.name}: misses {_misses(c)}" for c in found.candidates if not c.fits]
    if chosen is None:
        return [
            f"nothing meets the bounds ({of})",
            *misses,
            *others,
            *(f"  nearest: {_described(c, found.bounds)}" for c in found.nearest),
            *_caveats(report, found, found.nearest),
        ]
    artifact = f" ({chosen.row.artifact})" if chosen.row.artifact else ""
    return [
        f"ship {chosen.row.name}{artifact} ({of})",
        f"  {_described(chosen, found.bounds)}",
        f"  because {_why(found, chosen)}",
        *(f"  {_by_estimate(check)}" for check in chosen.checks if not check.surely),
        *misses,
        *others,
        *_caveats(report, found, (chosen,)),
    ]


def _wanted(bounds: Bounds) -> str:
    wanted = []
    if bounds.min_miou is not None:
        wanted.append(f"mIoU at least {figures.percent(bounds.min_miou)} %")
    if bounds.max_latency_ms is not None:
        wanted.append(f"{bounds.percentile} at most {bounds.max_latency_ms:g} ms")
    if bounds.max_memory_mb is not None:
        wanted.append(f"peak memory at most {bounds.max_memory_mb:g} MB")
    return ", ".join(wanted) or "no bounds"


_DECIDED = {
    "accuracy": "it is the more accurate",
    "size": "images do not tell their accuracy apart, and its file is the smaller",
    "nothing": "neither accuracy nor file size decides, and its median is the lower",
}


def _why(found: Recommendation, chosen: Candidate) -> str:
    fitting = sum(candidate.fits for candidate in found.candidates)
    if fitting == 1:
        return "it is the only row that meets the bounds"
    if found.decided_by == "speed":
        return f"it is the fastest of {fitting} that meet the bounds"
    names = ", ".join(c.row.name for c in found.equal if c is not chosen)
    return (
        f"of {fitting} that meet the bounds none is faster; the rounds do not tell its speed from"
        f" that of {names}; of these {_DECIDED[found.decided_by]}"
    )


def _described(candidate: Candidate, bounds: Bounds) -> str:
    row = candidate.row
    parts = [row.name]
    if candidate.miou:
        parts.append(f"mIoU {_with_interval(candidate.miou, 100)} %")
    parts.append(f"{bounds.percentile} {_with_interval(candidate.latency)} ms")
    if candidate.memory_mb is not None:
        parts.append(f"peak memory {candidate.memory_mb:.0f} MB")
    if row.footprint.artifact_bytes:
        parts.append(f"file {figures.megabytes(row.footprint.artifact_bytes, 2)} MB")
    return ", ".join(parts)


def _with_interval(value: Interval, scale: float = 1.0) -> str:
    if math.isinf(value.high):
        return f"{scale * value.value:.2f} [one round: no interval]"
    return f"{scale * value.value:.2f} [{scale * value.low:.2f}, {scale * value.high:.2f}]"


def _by_estimate(check: Check) -> str:
    if check.value is None or math.isinf(check.value.high):
        return f"{check.what} meets its bound by the estimate only, which has no interval"
    scale = 100 if check.what == "mIoU" else 1
    low, high = scale * check.value.low, scale * check.value.high
    return (
        f"{check.what} meets its bound by the estimate only: the 95 % interval"
        f" [{low:.2f}, {high:.2f}] reaches past it"
    )


def _misses(candidate: Candidate) -> str:
    """Each bound that the estimate does not meet, and by how much."""
    parts = []
    for check in candidate.checks:
        if not check.missed:
            continue
        if check.value is None:
            parts.append(f"{check.what}, which the record does not hold")
        elif check.what == "mIoU":
            short = 100 * (check.bound - check.value.value)
            parts.append(f"mIoU by {short:.2f} points ({figures.percent(check.value.value)} %)")
        else:
            over = check.value.value - check.bound
            parts.append(f"{check.what} by {over:.2f} ({check.value.value:.2f})")
    return ", ".join(parts)


def _caveats(report: Report, found: Recommendation, shown: tuple[Candidate, ...]) -> list[str]:
    """What whoever ships these rows must know."""
    lines = []
    bounds = found.bounds
    for candidate in shown:
        name, latency = candidate.row.name, candidate.timing.latency
        marks = {mark for t in candidate.timing.turns if t.counted for mark in t.marks}
        if marks:
            lines.append(
                f"{name}: its timing was {', '.join(sorted(marks))}: measure again in quiet"
            )
        if latency and latency.calls < _CALLS_FOR[bounds.percentile]:
            lines.append(f"{name}: {bounds.percentile} of {latency.calls} calls is a guess")
        accuracy = candidate.row.accuracy
        if accuracy and accuracy.timed_miou is not None and candidate.miou:
            lines.append(
                f"{name}: its mIoU is in {accuracy.arithmetic or 'other arithmetic'}; the kernels"
                f" that were timed have {figures.percent(accuracy.timed_miou)} %"
            )
    if bounds.min_miou is None:
        lines.append("accuracy was not bounded: add --min-miou")
    if not report.complete:
        lines.append("the record is of a run that was stopped before its end")
    return [f"  note: {line}" for line in lines]
