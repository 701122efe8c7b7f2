"""Which artifact of a record to ship under given bounds, and why.

A recommendation → lines of text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.judgement.compare import miou_change
from bench.measure.overlap import UNKNOWN
from bench.record import Report, Row, Setting, Timing
from bench.report import figures
from bench.statistics import speed_ratio, student_quantile, verdict
from dabnet.errors import InputError
from dabnet.intervals import Interval

PERCENTILES = ("p50", "p95", "p99")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an artifact must meet; None is no bound.

    Attributes:
        min_miou: mean IoU, 0…1.
        max_latency_ms: of a call at ``percentile`` in ``scope``.
        max_memory_mb: peak of the GPU's memory where it was recorded, else of the host's, in 10⁶
            bytes.
    """

    min_miou: float | None = None
    max_latency_ms: float | None = None
    percentile: str = "p95"
    scope: str = "host"
    max_memory_mb: float | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One bound against one row.

    Attributes:
        what: such as ``mIoU``.
        value: estimate with its interval; None where the record does not hold it.
        missed: by how much the estimate misses the bound, as a share of it; 0 where it is met,
            infinite where nothing is known.
        surely: whether the whole interval meets it.
    """

    what: str
    bound: float
    value: Interval | None
    missed: float
    surely: bool


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row that may be recommended.

    Attributes:
        miou: None without labels.
        latency: of the bounded percentile in milliseconds.
        memory_mb: see ``Bounds``.
    """

    row: Row
    timing: Timing
    miou: Interval | None
    latency: Interval
    memory_mb: float | None
    checks: tuple[Check, ...]

    @property
    def fits(self) -> bool:
        """Whether the estimates meet every bound."""
        return all(check.missed == 0 for check in self.checks)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to ship.

    Attributes:
        setting: that was looked at.
        chosen: None where no row meets the bounds.
        decided_by: ``speed``, or among ``equal`` rows ``accuracy``, ``size`` or ``nothing``.
        equal: rows that meet them and are not distinguishable from the fastest in speed.
        candidates: all that were looked at, those that miss least first.
        excluded: row → why it was not looked at.
        nearest: without ``chosen``: candidates of which no other is better in every bounded way.
    """

    setting: Setting
    bounds: Bounds
    chosen: Candidate | None
    decided_by: str
    equal: tuple[Candidate, ...]
    candidates: tuple[Candidate, ...]
    excluded: dict[str, str]
    nearest: tuple[Candidate, ...]


def recommend(report: Report, setting: Setting, bounds: Bounds) -> Recommendation:
    """Choose among the rows of one setting: the fastest that meets the bounds.

    Where rounds do not tell two apart in speed, the more accurate one; where images do not tell
    their accuracy apart either, the smaller file.
    """
    excluded: dict[str, str] = {}
    candidates = []
    for row in report.rows:
        if row.setting != setting or {timing.scope for timing in row.timings} == {"paper"}:
            continue
        timing = row.timing(bounds.scope)
        if reason := _unfit(row, timing, bounds):
            excluded[row.name] = reason
        elif timing is not None:
            candidates.append(_candidate(row, timing, bounds))
    candidates.sort(key=lambda candidate: sum(check.missed for check in candidate.checks))
    fitting = [candidate for candidate in candidates if candidate.fits]
    equal = _fastest(fitting)
    chosen, decided_by = _best(equal) if equal else (None, "")
    return Recommendation(
        setting,
        bounds,
        chosen,
        decided_by,
        tuple(equal),
        tuple(candidates),
        excluded,
        () if equal else tuple(_pareto(candidates)),
    )


def chosen_setting(
    report: Report, size: tuple[int, int] | None = None, batch: int | None = None
) -> Setting:
    """The setting to look at: that of ``size`` and ``batch``, of which the fewest streams.

    Without ``batch`` the smallest. The size must be given where the record has several.

    Raises:
        InputError: the record has no such setting, or several sizes to choose from.
    """
    known = ", ".join(map(str, report.settings)) or "no rows"
    sizes = sorted({setting.size for setting in report.settings})
    if size is None and len(sizes) > 1:
        raise InputError(
            f"a record of {len(sizes)} sizes ({known})", "one size", "choose one with --size HxW"
        )
    matching = [
        setting
        for setting in report.settings
        if size in (None, setting.size) and batch in (None, setting.batch)
    ]
    if not matching:
        asked = f"--size {size[0]}x{size[1]} " if size else ""
        asked += f"--batch {batch}" if batch else ""
        raise InputError(f"{asked.strip() or 'an empty record'}", f"one of: {known}")
    return min(matching, key=lambda setting: (setting.batch, setting.streams))


def _unfit(row: Row, timing: Timing | None, bounds: Bounds) -> str:
    """Why a row is never recommended, whatever its numbers; "" where it may be."""
    if row.reason:
        return row.reason
    if timing is None:
        return f"not timed in scope {bounds.scope}"
    if row.accuracy and row.accuracy.overlap:
        count = len(row.accuracy.overlap)
        return f"scored on {count} images that calibrated it: its accuracy is not known"
    if row.accuracy and row.accuracy.calibrated_on == UNKNOWN:
        return "calibrated on unknown images: it may be scored on them"
    return ""


def _candidate(row: Row, timing: Timing, bounds: Bounds) -> Candidate:
    score = row.accuracy.score if row.accuracy else None
    peak = row.footprint.device_peak_bytes or row.footprint.host_peak_bytes
    memory = peak / 1e6 if peak else None
    miou, latency = score.miou if score else None, percentile_ms(timing, bounds.percentile)
    memory_value = Interval(memory, memory, memory) if memory is not None else None
    asked = (
        ("mIoU", bounds.min_miou, miou, True),
        (f"{bounds.percentile} {bounds.scope} ms", bounds.max_latency_ms, latency, False),
        ("peak memory MB", bounds.max_memory_mb, memory_value, False),
    )
    checks = tuple(
        _check(what, bound, value, at_least) for what, bound, value, at_least in asked if bound
    )
    return Candidate(row, timing, miou, latency, memory, checks)


def _check(what: str, bound: float, value: Interval | None, at_least: bool) -> Check:
    if value is None:
        return Check(what, bound, None, math.inf, False)
    short = bound - value.value if at_least else value.value - bound
    surely = value.low >= bound if at_least else value.high <= bound
    return Check(what, bound, value, max(0.0, short / bound), surely)


def percentile_ms(timing: Timing, percentile: str) -> Interval:
    """Percentile of all calls of the counted turns, in milliseconds, with its interval.

    The interval is Student's over the logarithms of the rounds' own percentiles, laid around the
    estimate; with a single round it is unbounded.
    """
    if timing.latency is None:
        raise ValueError(f"the scope {timing.scope} has no samples")
    value = float(getattr(timing.latency, f"{percentile}_ms"))
    counted = [turn.samples_ns for turn in timing.turns if turn.counted]
    if len(counted) < 2:
        return Interval(value, 0.0, math.inf)
    rank = float(percentile.removeprefix("p"))
    logs = np.log([np.percentile(np.array(samples, np.float64), rank) for samples in counted])
    half = student_quantile(len(logs) - 1) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    return Interval(value, value * math.exp(-half), value * math.exp(half))


def _fastest(fitting: Sequence[Candidate]) -> list[Candidate]:
    """The fastest by its median, and those whose rounds do not tell them from it."""
    if not fitting:
        return []
    best = min(fitting, key=_median_ms)
    found = [best]
    for other in fitting:
        if other is not best:
            ratio = speed_ratio(best.timing.turns, other.timing.turns)
            if ratio is not None and verdict(ratio) == "indistinguishable":
                found.append(other)
    return found


def _median_ms(candidate: Candidate) -> float:
    return candidate.timing.latency.p50_ms if candidate.timing.latency else math.inf


def _best(equal: Sequence[Candidate]) -> tuple[Candidate, str]:
    """Of candidates of one speed the one to ship, and what decided.

    The most accurate; of those that images do not tell apart from it, the smallest file; of equal
    files the one with the lower median.
    """
    if len(equal) == 1:
        return equal[0], "speed"
    scored = [candidate for candidate in equal if candidate.miou] or equal
    first = max(scored, key=lambda candidate: candidate.miou.value if candidate.miou else 0)
    level = [c for c in scored if c is first or not _less_accurate(c, first)]
    if len(level) == 1:
        return first, "accuracy"
    sizes = [candidate.row.footprint.artifact_bytes or math.inf for candidate in level]
    smallest = [c for c, size in zip(level, sizes, strict=True) if size == min(sizes)]
    return min(smallest, key=_median_ms), "size" if len(smallest) < len(level) else "nothing"


def _less_accurate(candidate: Candidate, best: Candidate) -> bool:
    """Whether the images tell them apart; they are the same ones, as the rows are of one record."""
    scores = [c.row.accuracy.score if c.row.accuracy else None for c in (candidate, best)]
    ours, theirs = scores
    return bool(ours and theirs and miou_change(theirs, ours, paired=True).high < 0)


def _pareto(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Those than which no other is at least as good everywhere and better somewhere."""
    everyone = list(candidates)
    axes: list[Callable[[Candidate], float]] = [
        lambda c: -(c.miou.value if c.miou else -math.inf),
        lambda c: c.latency.value,
    ]
    if any(check.what == "peak memory MB" for c in everyone for check in c.checks):
        axes.append(lambda c: c.memory_mb if c.memory_mb is not None else math.inf)
    points = [tuple(axis(candidate) for axis in axes) for candidate in everyone]
    return [
        candidate
        for candidate, point in zip(everyone, points, strict=True)
        if not any(
            other != point and all(a <= b for a, b in zip(other, point, strict=True))
            for other in points
        )
    ]


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
