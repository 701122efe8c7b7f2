"""A comparison → a table, a last line, JSON."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.judgement.compare import (
    NORMALISED,
    NOT_JUDGED,
    REGRESSION,
    SUSPECT,
    Comparison,
    Finding,
    Limits,
)
from bench.report import figures
from dabnet.intervals import Interval
from dabnet.tables import line, row, table

FORMAT = 1
_STYLES = {REGRESSION: "bold red", SUSPECT: "yellow"}
_WORDS = ("artifact", "setting", "what", "note")


def print_comparison(console: Console, found: Comparison, limits: Limits) -> None:
    """Print what differs between the runs, the table and one line of verdict, which comes last."""
    for difference in found.differences:
        line(console, f"differs: {difference}")
    drawn = _table(found)
    console.print(drawn)
    for text in _notes(found, limits):
        line(console, text)
    line(console, last_line(found))


def _table(found: Comparison) -> Table:
    """The setting is a column only where there are several."""
    settings = {finding.setting for finding in found.findings}
    columns = ["result", "artifact", "setting", "what", "old", "new", "new to old", "normalised"]
    columns.append("note")
    shown = [
        number for number, name in enumerate(columns) if name != "setting" or len(settings) > 1
    ]
    drawn = table(*(columns[number] for number in shown), left=_WORDS)
    if len(settings) == 1:
        drawn.title, drawn.title_justify = str(min(settings, key=str)), "left"
    for finding in found.findings:
        cells = _cells(finding)
        row(drawn, *(cells[number] for number in shown), style=_STYLES.get(finding.outcome))
    return drawn


def last_line(found: Comparison) -> str:
    """``PASS`` or ``REGRESSION``, and how many findings there are of what matters."""
    regressions = found.count(REGRESSION)
    others = ", ".join(
        f"{count} {outcome}" for outcome in (SUSPECT, NOT_JUDGED) if (count := found.count(outcome))
    )
    of = f"{regressions} regressions in {len(found.findings)} findings"
    return f"{'REGRESSION' if regressions else 'PASS'}: {of}" + (f"; {others}" if others else "")


def record(found: Comparison, limits: Limits, old: Path, new: Path) -> dict[str, Any]:
    """The comparison as JSON holds it: shares in 0…1, times in ms, memory in bytes."""
    return {
        "format": FORMAT,
        "old": str(old),
        "new": str(new),
        "limits": dataclasses.asdict(limits),
        "basis": found.basis,
        "regressions": found.count(REGRESSION),
        "passed": found.count(REGRESSION) == 0,
        "differences": list(found.differences),
        "findings": [dataclasses.asdict(finding) for finding in found.findings],
    }


def _notes(found: Comparison, limits: Limits) -> list[str]:
    memory = limits.memory_growth
    judged = (
        "Another machine: speeds are judged by the normalised ratio, a row's change over that of"
        " the reference row in the same rounds."
        if found.basis == NORMALISED
        else "The same machine: speeds are judged by the direct ratio of times; what slowed down no"
        " more than the reference row is suspect, as the machine may have."
    )
    grown = "" if memory is None else f", or a peak of memory more than {100 * memory:g} % larger"
    return [
        judged,
        "Ratios: old time over new time, above 1 is faster; Welch's 95 % interval over rounds. The"
        " runs are not paired: what changed between them (day, temperature, other programs) is in"
        " the ratio, and not in its interval.",
        f"Regression: the whole interval is more than {100 * limits.slowdown:g} % slower, or more"
        f" than {100 * limits.miou_drop:g} points of mIoU lower{grown}; or a row that is gone."
        " Suspect: only the estimate is, or it may be the machine.",
    ]


def _cells(finding: Finding) -> tuple[str, ...]:
    return (
        finding.outcome,
        finding.name,
        str(finding.setting),
        finding.what,
        _value(finding, finding.old),
        _value(finding, finding.new),
        _change(finding, finding.change),
        _change(finding, finding.normalised),
        finding.note,
    )


def _value(finding: Finding, value: float | None) -> str:
    if value is None:
        return figures.NONE
    if finding.what == "accuracy":
        return f"{figures.percent(value)} %"
    if finding.what.endswith("memory"):
        return f"{figures.megabytes(round(value))} MB"
    return f"{figures.milliseconds(value)} ms"


def _change(finding: Finding, interval: Interval | None) -> str:
    if interval is None:
        return figures.NONE
    if finding.what == "accuracy":
        return figures.points(interval)
    if finding.what.endswith("memory"):
        return f"{figures.number(interval.value)}×"
    return figures.ratio(interval)
