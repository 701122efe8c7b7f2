"""Which artifact of a record to ship under given bounds, and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.judgement.compare_intervals import miou_change
from bench.overlap import UNKNOWN
from bench.record import Report, Row, Setting, Timing
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
