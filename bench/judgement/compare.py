"""Two records of the same rows: what became slower, less accurate or larger, or is gone."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from bench.machine.environment import lasting_facts
from bench.record import REFERENCE, Report, Row, Score, Setting, Timing
from bench.record.speed import WITHIN
from bench.record.timing import seconds_by_round
from bench.report import figures
from bench.report.columns import is_marked
from bench.statistics import EQUAL, FASTER, NOT_TOLD, SLOWER, ratio_of_runs, verdict
from dabnet.errors import InputError
from dabnet.intervals import Interval, bounds, resampled_miou
from dabnet.metrics import mean_of_classes
from dabnet.tables import line, row, table

REGRESSION, SUSPECT, NOT_JUDGED = "regression", "suspect", "not judged"
WORSE, BETTER, NEW = "worse", "better", "new"
OUTCOMES = (REGRESSION, SUSPECT, NOT_JUDGED, WORSE, NOT_TOLD, NEW, BETTER, EQUAL)
"""By severity. ``suspect``: past a threshold, but not surely; ``worse``: surely, but within it."""
_OF_SPEED = {FASTER: BETTER, SLOWER: WORSE}

DIRECT, NORMALISED = "direct", "normalised"

FORMAT = 2
_STYLES = {REGRESSION: "bold red", SUSPECT: "yellow"}
# By the last word of ``Finding.what``: texts of a value and of a change.
_TEXTS: dict[str, tuple[Callable[[float], str], Callable[[Any], str]]] = {
    "row": (str, str),
    "speed": (lambda ms: f"{figures.milliseconds(ms)} ms", figures.ratio),
    "accuracy": (lambda share: f"{figures.percent(share)} %", figures.points),
    "memory": (
        lambda count: f"{figures.megabytes(count)} MB",
        lambda growth: f"{figures.number(growth.value)}×",
    ),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Changes up to which a row has not regressed."""

    slowdown: float = 0.03  # share by which a call may take longer
    miou_drop: float = 0.003  # by how much mean IoU may fall: 0.3 points
    memory_growth: float | None = None  # share by which a peak may grow; None: it is not judged


@dataclass(frozen=True, slots=True)
class Finding:
    """One quantity of one row."""

    name: str
    setting: Setting
    what: str  # ``row``, ``host speed``, ``accuracy``, ``host memory``, …
    outcome: str  # one of ``OUTCOMES``
    # Milliseconds (median), mean IoU (0…1) or bytes, after ``what``; None if unknown.
    old: float | None = None
    new: float | None = None
    # Speed: the old time over the new one (above 1 is faster). Accuracy: the new mean IoU less the
    # old one. Memory: the new peak over the old one.
    change: Interval | None = None
    normalised: Interval | None = None  # of a speed, ``change`` over that of the reference row
    note: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Result of ``compare``."""

    findings: tuple[Finding, ...]  # the most severe first
    differences: tuple[str, ...]  # between the runs themselves, one line each
    basis: str  # which ratio of times is judged: ``direct`` or ``normalised``

    def count(self, outcome: str) -> int:
        """Number of findings of that outcome."""
        return sum(finding.outcome == outcome for finding in self.findings)


def compare(old: Report, new: Report, limits: Limits) -> Comparison:
    """Compare rows of the same subject, name and setting.

    The subjects of two records of one each are the same, whatever their labels.

    On the same machine times are judged as they are, unless the reference row of their setting
    slowed down as much. On another machine they are judged relative to that row, so that a slower
    machine is not taken for a regression; without it in both records speed is not judged.

    Raises:
        InputError: the records have no row in common.
    """
    several = max(len(old.subjects), len(new.subjects)) > 1
    before, after = (
        {(_name(report, row, several), row.setting): row for row in report.rows}
        for report in (old, new)
    )
    if not before.keys() & after:
        theirs, ours = ("; ".join(map(str, r.settings)) or "no rows" for r in (old, new))
        raise InputError(
            f"the records have no row in common ({theirs} and {ours})",
            "runs of the same models and backends at the same size, batch and streams",
            "measure both with the same --backend, --size, --batch and --streams",
        )
    basis = DIRECT if _machine(old) == _machine(new) else NORMALISED
    bases: dict[Setting, tuple[Row, Row]] = {}
    for key, old_row in before.items():
        if old_row.on == REFERENCE and key in after:
            bases.setdefault(old_row.setting, (old_row, after[key]))
    judge = _Judge(old, new, limits, basis, bases)
    findings = [f for key, row in before.items() for f in judge.findings(row, after.get(key))]
    new_rows = (row for key, row in after.items() if key not in before)
    findings += [Finding(row.name, row.setting, "row", NEW, note=row.reason) for row in new_rows]
    names = {base.name for base, _ in bases.values()}
    told = [*_differences(old, new), *(_drift(findings, names) if basis == DIRECT else ())]
    findings.sort(key=lambda finding: OUTCOMES.index(finding.outcome))
    return Comparison(tuple(findings), tuple(told), basis)


def _name(report: Report, row: Row, several: bool) -> str:
    return f"{report.subject(row).label}/{row.on}" if several else row.name


def miou_change(old: Score, new: Score, paired: bool) -> Interval:
    """Mean IoU of ``new`` less that of ``old``, 0…1; images are resampled.

    Args:
        paired: both are of the same images in the same order, and are resampled together.
    """
    counts = [(np.array(score.hits), np.array(score.unions)) for score in (old, new)]
    values = [mean_of_classes(*(part.sum(0).astype(float) for part in pair)) for pair in counts]
    before, after = resampled_miou(*counts[0]), resampled_miou(*counts[1], 0 if paired else 1)
    return Interval(float(values[1] - values[0]), *bounds(after - before))


def _past(change: Interval, least: float) -> str:
    """The outcome of a change that fell below ``least``; "" if it did not."""
    if change.value >= least:
        return ""
    return REGRESSION if change.high < least else SUSPECT


def _of_speed(ratio: Interval, least: float) -> str:
    return _past(ratio, least) or _OF_SPEED.get(verdict(ratio), verdict(ratio))


def of_miou(change: Interval, drop: float) -> str:
    """The outcome of a change of mean IoU that may fall by ``drop``."""
    if past := _past(change, -drop):
        return past
    if change.high < 0 or change.low > 0:
        return WORSE if change.high < 0 else BETTER
    return EQUAL if change.low >= -drop and change.high <= drop else NOT_TOLD


@dataclass(frozen=True, slots=True)
class _Judge:
    old: Report
    new: Report
    limits: Limits
    basis: str
    # The first PyTorch FP32 of each setting that both records have: the reference of speed.
    bases: Mapping[Setting, tuple[Row, Row]]

    def findings(self, row: Row, now: Row | None) -> Iterator[Finding]:
        """The findings of a row of the old record and the same one of the new record."""
        found = Finding(row.name, row.setting, "row", REGRESSION)
        if now is None or now.reason:
            gone = "missing in the new record" if now is None else f"fails now: {now.reason}"
            if row.reason:
                found, gone = replace(found, outcome=NOT_JUDGED), f"failed before, too; {gone}"
            yield replace(found, note=gone)
        elif row.reason:
            yield replace(found, outcome=BETTER, note=f"failed before: {row.reason}")
        else:
            for timing in row.timings:
                yield from self._speed(row, timing, now)
            yield from self._accuracy(row, now)
            yield from self._memory(row, now)

    def _speed(self, row: Row, before: Timing, now: Row) -> Iterator[Finding]:
        if before.latency is None:
            return
        what, after = f"{before.scope} speed", now.timing(before.scope)
        found = Finding(row.name, row.setting, what, NOT_JUDGED, before.latency.p50_ms)
        heads = [each.info.head for each in (row, now) if each.info]
        if len(set(heads)) > 1:
            yield replace(found, note=f"other outputs: {' and '.join(heads)}")
            return
        if after is None or after.latency is None:
            # A scope that the new run did not time at all was not asked for.
            asked = any(each.timing(before.scope) for each in self.new.rows)
            outcome = REGRESSION if asked else NOT_JUDGED
            yield replace(found, outcome=outcome, note="not timed in the new record")
            return
        if _arrivals(before) != _arrivals(after):
            yield replace(found, note="frames arrived at another rate")
            return
        times = [list(seconds_by_round(each.turns).values()) for each in (before, after)]
        change = ratio_of_runs(*(-np.log(seconds) for seconds in times))
        is_base = any(row is base for base, _ in self.bases.values())
        relative = None if is_base else self._relative(row, before, after)
        marks = sorted({*before.marks, *after.marks})
        outcome, note = self._judged(row, change, relative, bool(marks), is_base)
        note = "; ".join(filter(None, (note, ", ".join(marks))))
        found = replace(found, outcome=outcome, new=after.latency.p50_ms, note=note)
        yield replace(found, change=change, normalised=relative)

    def _relative(self, row: Row, before: Timing, after: Timing) -> Interval | None:
        """The change of a row's speed over that of the reference in the same rounds."""
        logs = []
        bases = self.bases.get(row.setting, ())
        for reference, timing in zip(bases, (before, after), strict=False):
            timed = reference.timing(timing.scope)
            if timed is None:
                return None
            theirs, ours = seconds_by_round(timed.turns), seconds_by_round(timing.turns)
            logs.append(np.log([theirs[n] / ours[n] for n in ours if n in theirs]))
        return ratio_of_runs(*logs) if logs else None

    def _judged(
        self,
        row: Row,
        direct: Interval | None,
        relative: Interval | None,
        marked: bool,
        is_base: bool,
    ) -> tuple[str, str]:
        """Outcome of a speed, and why if that is not plain.

        A machine is not always as fast as it was, and one run's rounds do not show it: the
        reference does. What slowed down no more than the reference is no regression, but suspect;
        so is the reference itself if something disturbed it.
        """
        least = 1 / (1 + self.limits.slowdown)
        base = self.bases[row.setting][0].name if row.setting in self.bases else REFERENCE
        if direct is None:
            return NOT_JUDGED, "fewer than two rounds: no interval"
        if self.basis == NORMALISED and is_base:
            return NOT_JUDGED, "the reference, on another machine"
        if self.basis == NORMALISED:
            why = f"another machine, and no {base} in this scope of both records"
            return (_of_speed(relative, least), "") if relative else (NOT_JUDGED, why)
        outcome = _of_speed(direct, least)
        if outcome == REGRESSION and relative is not None and relative.value >= least:
            return SUSPECT, f"{base} slowed down as much"
        if outcome == REGRESSION and is_base and marked:
            return SUSPECT, "nothing to compare it with"
        return outcome, ""

    def _accuracy(self, row: Row, now: Row) -> Iterator[Finding]:
        if row.score is None:
            return
        old, new = self.old, self.new
        found = Finding(row.name, row.setting, "accuracy", NOT_JUDGED, row.score.miou.value)
        if now.score is None:
            outcome = REGRESSION if new.labelled else NOT_JUDGED
            yield replace(found, outcome=outcome, note="not scored in the new record")
            return
        found = replace(found, new=now.score.miou.value)
        if (old.dataset, old.split, old.classes) != (new.dataset, new.split, new.classes):
            yield replace(found, note="another data set, split or classes")
            return
        paired = old.images == new.images
        change = miou_change(row.score, now.score, paired)
        outcome = of_miou(change, self.limits.miou_drop)
        notes = [] if paired else ["other images: unpaired"]
        if is_marked(row) != is_marked(now):
            # Images that it may have seen raise a score. Only a fall in spite of that tells.
            side = "new" if is_marked(now) else "old"
            notes.append(f"the {side} network may have seen the images")
            if side == "old" or outcome not in (REGRESSION, SUSPECT):
                outcome = NOT_JUDGED
        yield replace(found, outcome=outcome, change=change, note="; ".join(notes))

    def _memory(self, row: Row, now: Row) -> Iterator[Finding]:
        growth = self.limits.memory_growth
        for what in ("host", "device"):
            old, new = (getattr(each.footprint, f"{what}_peak_bytes") for each in (row, now))
            if growth is None or not old or new is None:
                continue
            change = Interval(*3 * (new / old,))
            outcome = REGRESSION if new > old else BETTER
            if abs(new - old) <= growth * old:
                outcome = EQUAL
            yield Finding(row.name, row.setting, f"{what} memory", outcome, old, new, change)


# --- the runs ---------------------------------------------------------------------------------


def _arrivals(timing: Timing) -> set[tuple[float, int]]:
    """Rates and numbers of the cameras; empty where calls follow each other."""
    return {(turn.frames.fps, turn.frames.cameras) for turn in timing.turns if turn.frames}


def _machine(report: Report) -> tuple[Any, ...]:
    """Facts that must be equal for times to be compared as they are."""
    return report.scenario.get("cpu_threads"), *map(report.environment.get, ("processor", "gpu"))


def _differences(old: Report, new: Report) -> Iterator[str]:
    """A line for each thing in which the runs differ: machine, versions, model, data, settings."""
    for name, report in (("old", old), ("new", new)):
        if not report.complete:
            yield f"the {name} record is of a run that was stopped before its end"
    facts = [_facts(report) for report in (old, new)]
    for key in facts[0] | facts[1]:
        before, after = (each.get(key, "unknown") for each in facts)
        if before != after:
            yield f"{key}: {before} → {after}"
    if old.images != new.images:
        shared = len(set(old.images) & set(new.images))
        yield f"images: {len(old.images)} → {len(new.images)}, of which {shared} are the same"
    yield from (f"{s}: only in the old record" for s in old.settings if s not in new.settings)
    yield from (f"{s}: only in the new record" for s in new.settings if s not in old.settings)


def _facts(report: Report) -> dict[str, Any]:
    several = len(report.subjects) > 1
    files = {
        f"file of {subject.label}" if several else "file": f"{subject.file} ({subject.sha256[:12]})"
        for subject in report.subjects
    }
    return {
        "model": report.title,
        **files,
        "data set": f"{report.dataset} {report.split}",
        "classes": len(report.classes),
        **lasting_facts(report.environment),
        **{f"scenario: {key}": value for key, value in report.scenario.items()},
    }


def _drift(findings: Sequence[Finding], names: Collection[str]) -> Iterator[str]:
    """Changes of the reference itself, which may be of the machine."""
    for found in (f for f in findings if f.name in names and f.what.endswith(" speed")):
        if found.change and not found.change.low <= 1 <= found.change.high:
            yield (
                f"{found.name} itself is {found.change.value:.2f} times as fast at {found.setting}"
                f" ({found.what.removesuffix(' speed')}): if its code is the same, the machine has"
                " changed, and the normalised ratio tells more than the direct one"
            )


# --- as text ----------------------------------------------------------------------------------


def print_comparison(console: Console, found: Comparison, limits: Limits) -> None:
    """Print what differs between the runs, the table and, last, one line of verdict."""
    for difference in found.differences:
        line(console, f"differs: {difference}")
    several = len({finding.setting for finding in found.findings}) > 1
    where = ["setting"] if several else []
    headings = ["result", "artifact", *where, "what", "old", "new", "new to old", "normalised"]
    title = "" if several else str(found.findings[0].setting)
    drawn = table(*headings, "note", left=("artifact", "setting", "what", "note"), title=title)
    for finding in found.findings:
        row(drawn, *_cells(finding, several), style=_STYLES.get(finding.outcome))
    console.print(drawn)
    for text in _notes(found, limits):
        line(console, text)
    line(console, last_line(found))


def last_line(found: Comparison) -> str:
    """``PASS`` or ``REGRESSION``, and the number of findings of what matters."""
    word = "REGRESSION" if found.count(REGRESSION) else "PASS"
    text = f"{word}: {found.count(REGRESSION)} regressions in {len(found.findings)} findings"
    others = (
        f"{many} {name}" for name in (SUSPECT, NOT_JUDGED, NOT_TOLD) if (many := found.count(name))
    )
    told = ", ".join(others)
    return f"{text}; {told}" if told else text


def comparison_text(found: Comparison, limits: Limits, old: Path, new: Path) -> str:
    """The comparison as JSON: shares in 0…1, times in ms, memory in bytes."""
    regressions = found.count(REGRESSION)
    values: dict[str, Any] = {"format": FORMAT, "old": old.name, "new": new.name}
    values |= {"limits": asdict(limits), "regressions": regressions, "passed": regressions == 0}
    values |= asdict(found)
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _cells(finding: Finding, several: bool) -> Iterator[str]:
    yield from (finding.outcome, finding.name)
    if several:
        yield str(finding.setting)
    yield finding.what
    texts = _TEXTS[finding.what.split()[-1]]
    values = (finding.old, finding.new), (finding.change, finding.normalised)
    for text, pair in zip(texts, values, strict=True):
        yield from (figures.NONE if value is None else text(value) for value in pair)
    yield finding.note


def _notes(found: Comparison, limits: Limits) -> tuple[str, ...]:
    memory = limits.memory_growth
    grown = "" if memory is None else f", or a peak of memory more than {100 * memory:g} % larger"
    return (
        "Another machine: speeds are judged by the normalised ratio, a row's change over that of"
        " the reference row in the same rounds."
        if found.basis == NORMALISED
        else "The same machine: speeds are judged by the direct ratio of times; what slowed down no"
        " more than the reference row is suspect, as the machine may have.",
        "Ratios: old time over new time, above 1 is faster; Welch's 95 % interval over rounds. The"
        " runs are not paired: what changed between them (day, temperature, other programs) is in"
        " the ratio, and not in its interval.",
        f"Regression: the whole interval is more than {100 * limits.slowdown:g} % slower, or more"
        f" than {100 * limits.miou_drop:g} points of mIoU lower{grown}; or a row that is gone."
        " Suspect: only the estimate is, or it may be the machine.",
        f"Else a speed is equal if its whole interval is {WITHIN} of 1. An mIoU is equal if no"
        f" change is sure and none is above {100 * limits.miou_drop:g} points. Not told apart:"
        " measure more.",
    )
