"""The artifact of a record to ship: the fastest row that meets given bounds, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass

import numpy as np

from bench.judgement.compare import miou_change
from bench.record import PAPER, Report, Row, Setting, Timing
from bench.record.speed import WITHIN, by_speed, compared
from bench.report import figures
from bench.report.columns import counted, is_broken, is_marked, rows_of
from bench.report.notes import broken, seen
from bench.statistics import EQUAL, FASTER, NOT_TOLD, interval_around
from dabnet.errors import InputError
from dabnet.intervals import Interval

_CALLS_FOR = {"p50": 2, "p95": 20, "p99": 100}
"""Calls below which a percentile is little else than the slowest call."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an artifact must meet; None is no bound."""

    min_miou: float | None = None  # mean IoU, 0…1
    max_latency_ms: float | None = None  # of a call at ``percentile`` in ``scope``
    percentile: str = "p95"
    scope: str = "host"
    # Peak of the GPU if it was recorded, else of the host, in 10⁶ bytes.
    max_memory_mb: float | None = None


def recommend(report: Report, setting: Setting, bounds: Bounds) -> tuple[Row | None, list[str]]:
    """The row of a setting to ship (None if none meets the bounds), and the reasons, line by line.

    The fastest; of rows that are equally fast (``bench.statistics.verdict``) the most accurate; of
    those that images do not tell from that one the smallest file. Rows that the rounds do not tell
    from the chosen one are named, with what would.
    """
    rows = [row for row in rows_of(report, setting) if not row.timing(PAPER)]
    fitting: dict[str, tuple[Row, Timing]] = {}
    lines, excluded = [], []
    for row in by_speed(rows, bounds.scope):
        timing = row.timing(bounds.scope)
        if report.subject(row).untrained:
            excluded.append(f"  not considered: {row.name}: its weights are random")
        elif is_broken(row):
            excluded.append(f"  not considered: {broken(row)}")
        elif is_marked(row):
            excluded.append(f"  not considered: {seen(report, row)}")
        elif row.reason or timing is None:
            why = row.reason or f"not timed in scope {bounds.scope}"
            excluded.append(f"  not considered: {row.name}: {why}")
        else:
            texts, misses = zip(*_figures(row, timing, bounds), strict=True)
            notes = "".join(_notes(row, timing, bounds.percentile))
            word = "misses" if any(misses) else "meets"
            lines.append(f"  {word}: {row.name}: {', '.join(texts)}{notes}")
            if not any(misses):
                fitting[row.name] = row, timing
    if bounds.min_miou is None:
        excluded.append("  note: accuracy was not bounded: add --min-miou")
    if not report.complete:
        excluded.append("  note: the record is of a run that was stopped before its end")
    where = f"({setting}, scope {bounds.scope})"
    if not fitting:
        return None, [f"nothing meets the bounds {where}", *lines, *excluded]
    chosen, why = _best([*fitting.values()])
    first = [f"ship {chosen.name} ({chosen.artifact}) {where}", f"  because {why}"]
    return chosen, [*first, *_rivals(chosen.name, fitting), *lines, *excluded]


def chosen_setting(
    report: Report, size: tuple[int, int] | None = None, batch: int | None = None
) -> Setting:
    """The setting of that size and batch (default: the smallest) with the fewest streams.

    Raises:
        InputError: the record has no such setting, or several sizes to choose from.
    """
    known = ", ".join(map(str, report.settings)) or "no rows"
    found = [s for s in report.settings if size in (None, s.size) and batch in (None, s.batch)]
    if len({setting.size for setting in found}) > 1:
        raise InputError(f"a record of several sizes ({known})", "one size", "add --size HxW")
    if not found:
        asked = [f"--size {size[0]}x{size[1]}"] if size else []
        asked += [f"--batch {batch}"] if batch else []
        raise InputError(" ".join(asked) or "an empty record", f"one of: {known}")
    return min(found, key=lambda setting: (setting.batch, setting.streams))


def percentile_ms(timing: Timing, percentile: str) -> Interval:
    """Percentile of all calls of the counted turns in ms, with the interval of the rounds' own.

    Of a single round the interval is unbounded.
    """
    value = float(getattr(timing.latency, f"{percentile}_ms"))
    rounds = [np.percentile(t.samples_ns, float(percentile[1:])) for t in counted(timing)]
    return interval_around(value, rounds) if len(rounds) > 1 else Interval(value, 0.0, math.inf)


def _figures(row: Row, timing: Timing, bounds: Bounds) -> Iterator[tuple[str, bool]]:
    """Each figure of a row as text, and whether its estimate misses its bound."""
    peak = row.footprint.device_peak_bytes or row.footprint.host_peak_bytes
    miou = row.score.miou if row.score else None
    percents = Interval(*(100 * share for share in astuple(miou))) if miou else None
    minimum = None if bounds.min_miou is None else 100 * bounds.min_miou
    latency = percentile_ms(timing, bounds.percentile)
    yield _figure("mIoU", "%", percents, minimum, sign=-1)
    yield _figure(bounds.percentile, "ms", latency, bounds.max_latency_ms)
    memory = Interval(*3 * (peak / 1e6,)) if peak else None
    yield _figure("peak memory", "MB", memory, bounds.max_memory_mb)


def _figure(
    name: str, unit: str, found: Interval | None, bound: float | None, sign: int = 1
) -> tuple[str, bool]:
    """A figure and its bound, a maximum (``sign`` 1) or minimum (-1)."""
    if found is None:
        return f"{name} unknown", bound is not None
    interval = f" [{found.low:.2f}, {found.high:.2f}]" if found.low < found.high < math.inf else ""
    text = f"{name} {found.value:.2f}{interval} {unit}"
    if bound is None:
        return text, False
    over, worst = (sign * (v - bound) for v in (found.value, found.high if sign > 0 else found.low))
    if over > 0:
        return f"{text} (misses {bound:g} by {over:.2f})", True
    return f"{text} (meets {bound:g} by its estimate only)" if worst > 0 else text, False


def _best(fitting: list[tuple[Row, Timing]]) -> tuple[Row, str]:
    """The row to ship of those that meet the bounds, the fastest first, and what decided."""
    (fastest, its), *others = fitting
    if not others:
        return fastest, "it is the only row that meets the bounds"
    equal = [fastest]
    for place, (row, timing) in enumerate(others, 1):
        # One that another is surely faster than is never chosen.
        before = (known for _, known in fitting[:place])
        if compared(its, timing).verdict == EQUAL and not any(
            compared(known, timing).verdict == FASTER for known in before
        ):
            equal.append(row)
    if len(equal) == 1:
        told = all(compared(its, timing).verdict == FASTER for _, timing in others)
        by = "" if told else ", by its estimate,"
        return fastest, f"it is{by} the fastest of {len(fitting)} that meet the bounds"
    accurate = max(equal, key=lambda row: row.score.miou.value if row.score else -1)
    level = [row for row in equal if row is accurate or not _less_accurate(row, accurate)]
    chosen = min(level, key=lambda row: row.footprint.artifact_bytes or math.inf)
    best = "the most accurate"
    if len(level) > 1:
        best = "the smallest of those whose accuracy the images do not tell from the best"
    fast = f"{len(equal)} are the fastest, {EQUAL} {WITHIN}"
    return chosen, f"of {len(fitting)} that meet the bounds {fast}, and of these it is {best}"


def _rivals(chosen: str, fitting: Mapping[str, tuple[Row, Timing]]) -> Iterator[str]:
    """The rows that meet the bounds and are equally fast, or not told from the chosen one."""
    its = fitting[chosen][1]
    for name, (_, timing) in fitting.items():
        pair = compared(timing, its)
        said = f" ({figures.ratio(pair.ratio)} its speed)" if pair.ratio else ""
        if name == chosen:
            continue
        if pair.verdict == EQUAL:
            yield f"  {EQUAL} {WITHIN}: {name}{said}"
        elif pair.verdict == NOT_TOLD:
            yield f"  {NOT_TOLD}: {name}{said}: measure more, {pair.more}"


def _less_accurate(row: Row, best: Row) -> bool:
    """Whether the images, which are the same in one record, tell them apart."""
    if row.score is None or best.score is None:
        return row.score is not best.score
    return miou_change(best.score, row.score, paired=True).high < 0


def _notes(row: Row, timing: Timing, percentile: str) -> Iterator[str]:
    """What whoever ships this row must know."""
    if timing.marks:
        yield f"; its timing was {', '.join(timing.marks)}: measure again in quiet"
    if timing.latency and timing.latency.calls < _CALLS_FOR[percentile]:
        yield f"; {percentile} of {timing.latency.calls} calls is a guess"
    if row.score and row.accuracy and row.accuracy.timed_miou is not None:
        timed = figures.percent(row.accuracy.timed_miou)
        yield f"; the timed kernels have mIoU {timed} %, and other arithmetic was scored"
