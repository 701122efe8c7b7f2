"""Two records of the same rows: what became slower, less accurate or larger, or is gone.

How far one run's numbers are from another's, with 95 % intervals.

In what two runs differ: machine, versions, model, data, settings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.record import REFERENCE, Report, Row, Score, Setting, Timing, Turn
from bench.statistics import seconds_by_round, student_quantile, verdict
from dabnet.errors import InputError
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


MACHINE = ("processor", "gpu")
"""Facts of ``Report.environment`` that make it the same machine."""
_VARIES = ("load average",)


def same_machine(old: Report, new: Report) -> bool:
    """Whether times of the two can be compared as they are; also the same number of threads."""
    threads = (report.scenario.get("cpu_threads") for report in (old, new))
    return len(set(threads)) == 1 and all(
        old.environment.get(fact) == new.environment.get(fact) for fact in MACHINE
    )


def differences(old: Report, new: Report) -> Iterator[str]:
    """A line for each thing in which the runs differ."""
    for name, report in (("old", old), ("new", new)):
        if not report.complete:
            yield f"the {name} record is of a run that was stopped before its end"
    facts: list[tuple[str, Any, Any]] = [
        ("model", old.model, new.model),
        ("checkpoint", _checkpoint(old), _checkpoint(new)),
        ("data set", f"{old.dataset} {old.split}", f"{new.dataset} {new.split}"),
        ("classes", len(old.classes), len(new.classes)),
    ]
    if old.images != new.images:
        shared = len(set(old.images) & set(new.images))
        theirs = f"{len(new.images)}, of which {shared} are the same"
        facts.append(("images", len(old.images), theirs))
    for title, a, b in (
        ("", old.environment, new.environment),
        ("scenario: ", old.scenario, new.scenario),
    ):
        for key in dict.fromkeys((*a, *b)):
            if key not in _VARIES:
                facts.append((title + key, a.get(key, "unknown"), b.get(key, "unknown")))
    yield from (f"{what}: {a} → {b}" for what, a, b in facts if a != b)
    yield from (f"{s}: only in the old record" for s in old.settings if s not in new.settings)
    yield from (f"{s}: only in the new record" for s in new.settings if s not in old.settings)


def _checkpoint(report: Report) -> str:
    return f"{report.checkpoint} ({report.checkpoint_sha256[:12]})"


def drift(old: Report, new: Report) -> Iterator[str]:
    """Where the reference itself has changed, the machine may have."""
    for setting in old.settings:
        before, after = old.reference(setting), new.reference(setting)
        for timing in before.timings if before and after else ():
            now = after.timing(timing.scope) if after else None
            if now is None or not timing.latency:
                continue
            change = ratio_of_runs(-log_times(timing.turns), -log_times(now.turns))
            if change and verdict(change) != "indistinguishable":
                yield (
                    f"{REFERENCE} itself is {change.value:.2f} times as fast at {setting}"
                    f" ({timing.scope}): if its code is the same, the machine has changed, and"
                    " the normalised ratio tells more than the direct one"
                )


REGRESSION, SUSPECT, NOT_JUDGED = "regression", "suspect", "not judged"
WORSE, SAME, BETTER, NEW = "worse", "indistinguishable", "better", "new"
OUTCOMES = (REGRESSION, SUSPECT, NOT_JUDGED, WORSE, NEW, BETTER, SAME)
"""By severity. ``suspect``: past a threshold, but not surely; ``worse``: surely, but within it."""

DIRECT, NORMALISED = "direct", "normalised"


@dataclass(frozen=True, slots=True)
class Limits:
    """What is still no regression.

    Attributes:
        slowdown: share by which a call may take longer, such as 0.03.
        miou_drop: by how much mean IoU may fall, such as 0.003 for 0.3 points.
        memory_growth: share by which a peak may grow; None: memory is not judged.
    """

    slowdown: float = 0.03
    miou_drop: float = 0.003
    memory_growth: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One quantity of one row.

    Attributes:
        what: ``row``, ``host speed``, ``accuracy``, ``host memory``, …
        outcome: one of ``OUTCOMES``.
        old, new: milliseconds (median), mean IoU (0…1) or bytes, after ``what``; None if unknown.
        change: of a speed the old time over the new one (above 1 is faster), of accuracy the new
            mean IoU less the old one, of memory the new peak over the old one.
        normalised: of a speed, ``change`` over that of the reference row.
        note: what the reader must know.
    """

    name: str
    setting: Setting
    what: str
    outcome: str
    old: float | None = None
    new: float | None = None
    change: Interval | None = None
    normalised: Interval | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What ``compare`` found.

    Attributes:
        findings: the most severe first.
        differences: between the runs themselves, a line each.
        basis: which ratio of times is judged: ``direct`` or ``normalised``.
    """

    findings: tuple[Finding, ...]
    differences: tuple[str, ...]
    basis: str

    def count(self, outcome: str) -> int:
        """How many findings there are of it."""
        return sum(finding.outcome == outcome for finding in self.findings)


def compare(old: Report, new: Report, limits: Limits) -> Comparison:
    """Compare rows of the same name and setting.

    On the same machine times are judged as they are, unless the reference row of their setting
    slowed down as much. On another one they are judged relative to that row, so that a slower
    machine is not taken for a regression; without it in both records speed is not judged.

    Raises:
        InputError: the records have no row in common.
    """
    before = {(row.name, row.setting): row for row in old.rows}
    after = {(row.name, row.setting): row for row in new.rows}
    if not before.keys() & after:
        raise InputError(
            f"the records have no row in common ({_where(old)} and {_where(new)})",
            "runs of the same backends at the same size, batch and streams",
            "measure both with the same --backend, --size, --batch and --streams",
        )
    basis = DIRECT if same_machine(old, new) else NORMALISED
    findings = [
        finding
        for key, row in before.items()
        for finding in _row(row, after.get(key), old, new, limits, basis)
    ]
    findings += [
        Finding(*key, "row", NEW, note=row.reason)
        for key, row in after.items()
        if key not in before
    ]
    told = [*differences(old, new), *(drift(old, new) if basis == DIRECT else ())]
    findings.sort(key=lambda finding: OUTCOMES.index(finding.outcome))
    return Comparison(tuple(findings), tuple(told), basis)


def _where(report: Report) -> str:
    return "; ".join(map(str, report.settings)) or "no rows"


def _row(
    row: Row, now: Row | None, old: Report, new: Report, limits: Limits, basis: str
) -> Iterator[Finding]:
    name, setting = row.name, row.setting
    if now is None or now.reason:
        gone = "missing in the new record" if now is None else f"fails now: {now.reason}"
        if row.reason:
            yield Finding(name, setting, "row", SAME, note=f"failed before, too; {gone}")
        else:
            yield Finding(name, setting, "row", REGRESSION, note=gone)
        return
    if row.reason:
        yield Finding(name, setting, "row", BETTER, note=f"failed before: {row.reason}")
        return
    yield from _speeds(row, now, old, new, limits.slowdown, basis)
    yield from _accuracy(row, now, old, new, limits.miou_drop)
    yield from _memory(row, now, limits.memory_growth)


# --- speed ------------------------------------------------------------------------------------


def _speeds(
    row: Row, now: Row, old: Report, new: Report, slowdown: float, basis: str
) -> Iterator[Finding]:
    timed_now = {timing.scope for each in new.rows for timing in each.timings if timing.latency}
    for before in row.timings:
        if before.latency is None:
            continue
        what, after = f"{before.scope} speed", now.timing(before.scope)
        if after is None or after.latency is None:
            # A scope that the new run did not time at all was not asked for.
            outcome = REGRESSION if before.scope in timed_now else NOT_JUDGED
            note = "not timed in the new record"
            yield Finding(row.name, row.setting, what, outcome, before.latency.p50_ms, note=note)
            continue
        direct = ratio_of_runs(-log_times(before.turns), -log_times(after.turns))
        relative = _relative(row, before, after, old, new)
        marks = {
            mark for t in (before, after) for turn in t.turns if turn.counted for mark in turn.marks
        }
        outcome, note = _judged(row, direct, relative, slowdown, basis, bool(marks))
        yield Finding(
            row.name,
            row.setting,
            what,
            outcome,
            before.latency.p50_ms,
            after.latency.p50_ms,
            direct,
            relative,
            "; ".join(filter(None, (note, ", ".join(sorted(marks))))),
        )


def _relative(row: Row, before: Timing, after: Timing, old: Report, new: Report) -> Interval | None:
    """The change of a row's speed over that of the reference in the same rounds."""
    if row.name == REFERENCE:
        return None
    logs = []
    for report, timing in ((old, before), (new, after)):
        reference = report.reference(row.setting)
        timed = reference.timing(timing.scope) if reference else None
        if timed is None:
            return None
        logs.append(log_ratios(timed.turns, timing.turns))
    return ratio_of_runs(*logs)


def _judged(
    row: Row,
    direct: Interval | None,
    relative: Interval | None,
    slowdown: float,
    basis: str,
    marked: bool,
) -> tuple[str, str]:
    """Outcome of a speed, and why where that is not plain.

    A machine is not always as fast as it was, and one run's rounds do not show it: the reference
    does. What slowed down no more than the reference is no regression, but suspect; so is the
    reference itself where something disturbed it.
    """
    if direct is None:
        return NOT_JUDGED, "fewer than two rounds: no interval"
    if basis == NORMALISED:
        if row.name == REFERENCE:
            return NOT_JUDGED, "the reference, on another machine"
        if relative is None:
            return NOT_JUDGED, f"another machine, and no {REFERENCE} in this scope of both records"
        return _judged_ratio(relative, slowdown), ""
    outcome = _judged_ratio(direct, slowdown)
    if outcome == REGRESSION and relative is not None and relative.value >= 1 / (1 + slowdown):
        return SUSPECT, f"{REFERENCE} slowed down as much"
    if outcome == REGRESSION and row.name == REFERENCE and marked:
        return SUSPECT, "nothing to compare it with"
    return outcome, ""


def _judged_ratio(ratio: Interval, slowdown: float) -> str:
    floor = 1 / (1 + slowdown)
    if ratio.value < floor:
        return REGRESSION if ratio.high < floor else SUSPECT
    return {"faster": BETTER, "slower": WORSE}.get(verdict(ratio), SAME)


# --- accuracy and memory ----------------------------------------------------------------------


def _accuracy(row: Row, now: Row, old: Report, new: Report, drop: float) -> Iterator[Finding]:
    before = row.accuracy.score if row.accuracy else None
    after = now.accuracy.score if now.accuracy else None
    if before is None:
        return
    found = Finding(row.name, row.setting, "accuracy", NOT_JUDGED, old=before.miou.value)
    if after is None:
        outcome = REGRESSION if new.labelled else NOT_JUDGED
        yield replace(found, outcome=outcome, note="not scored in the new record")
        return
    found = replace(found, new=after.miou.value)
    if (old.dataset, old.split, old.classes) != (new.dataset, new.split, new.classes):
        yield replace(found, note="another data set, split or classes")
        return
    paired = old.images == new.images
    change = miou_change(before, after, paired)
    note = "" if paired else "other images: unpaired"
    yield replace(found, outcome=_judged_drop(change, drop), change=change, note=note)


def _judged_drop(change: Interval, drop: float) -> str:
    if change.value < -drop:
        return REGRESSION if change.high < -drop else SUSPECT
    return WORSE if change.high < 0 else BETTER if change.low > 0 else SAME


def _memory(row: Row, now: Row, growth: float | None) -> Iterator[Finding]:
    for what in ("host", "device"):
        old, new = (getattr(each.footprint, f"{what}_peak_bytes") for each in (row, now))
        if growth is None or not old or new is None:
            continue
        change = new / old
        outcome = REGRESSION if change > 1 + growth else SAME
        yield Finding(
            row.name,
            row.setting,
            f"{what} memory",
            outcome,
            old,
            new,
            Interval(change, change, change),
        )
