"""A comparison as a table with a last line, and as JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.judgement.compare import (
    NORMALISED,
    NOT_JUDGED,
    REGRESSION,
    SUSPECT,
    Comparison,
    Limits,
)
from bench.report import figures
from dabnet.intervals import Interval
from dabnet.tables import line, row, table

FORMAT = 1
_STYLES = {REGRESSION: "bold red", SUSPECT: "yellow"}


def print_comparison(console: Console, found: Comparison, limits: Limits) -> None:
    """Print what differs between the runs, the table and, last, one line of verdict."""
    for difference in found.differences:
        line(console, f"differs: {difference}")
    console.print(_table(found))
    for text in _notes(found, limits):
        line(console, text)
    line(console, last_line(found))


def last_line(found: Comparison) -> str:
    """``PASS`` or ``REGRESSION``, and the number of findings of what matters."""
    regressions = found.count(REGRESSION)
    others = ", ".join(
        f"{count} {outcome}" for outcome in (SUSPECT, NOT_JUDGED) if (count := found.count(outcome))
    )
    of = f"{regressions} regressions in {len(found.findings)} findings"
    return f"{'REGRESSION' if regressions else 'PASS'}: {of}" + (f"; {others}" if others else "")


def comparison_text(found: Comparison, limits: Limits, old: Path, new: Path) -> str:
    """The comparison as JSON: shares in 0…1, times in ms, memory in bytes."""
    values = {
        "format": FORMAT,
        "old": str(old),
        "new": str(new),
        "limits": dataclasses.asdict(limits),
        "regressions": found.count(REGRESSION),
        "passed": found.count(REGRESSION) == 0,
        **dataclasses.asdict(found),
    }
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _table(found: Comparison) -> Table:
    """The setting is a column only if there are several."""
    settings = {finding.setting for finding in found.findings}
    several = ["setting"] if len(settings) > 1 else []
    columns = ["result", "artifact", *several, "what", "old", "new", "new to old", "normalised"]
    drawn = table(*columns, "note", left=("artifact", "setting", "what", "note"))
    if not several:
        drawn.title, drawn.title_justify = str(min(settings, key=str)), "left"
    for finding in found.findings:
        row(
            drawn,
            finding.outcome,
            finding.name,
            *(str(finding.setting) for _ in several),
            finding.what,
            _value(finding.what, finding.old),
            _value(finding.what, finding.new),
            _change(finding.what, finding.change),
            _change(finding.what, finding.normalised),
            finding.note,
            style=_STYLES.get(finding.outcome),
        )
    return drawn


def _value(what: str, value: float | None) -> str:
    if value is None:
        return figures.NONE
    if what == "accuracy":
        return f"{figures.percent(value)} %"
    if what.endswith("memory"):
        return f"{figures.megabytes(value)} MB"
    return f"{figures.milliseconds(value)} ms"


def _change(what: str, interval: Interval | None) -> str:
    if interval is None:
        return figures.NONE
    if what == "accuracy":
        return figures.points(interval)
    if what.endswith("memory"):
        return f"{figures.number(interval.value)}×"
    return figures.ratio(interval)


def _notes(found: Comparison, limits: Limits) -> tuple[str, ...]:
    memory = limits.memory_growth
    grown = "" if memory is None else f", or a peak of memory more than {100 * memory:g} % larger"
    judged = (
        "Another machine: speeds are judged by the normalised ratio, a row's change over that of"
        " the reference row in the same rounds."
        if found.basis == NORMALISED
        else "The same machine: speeds are judged by the direct ratio of times; what slowed down no"
        " more than the reference row is suspect, as the machine may have."
    )
    return (
        judged,
        "Ratios: old time over new time, above 1 is faster; Welch's 95 % interval over rounds. The"
        " runs are not paired: what changed between them (day, temperature, other programs) is in"
        " the ratio, and not in its interval.",
        f"Regression: the whole interval is more than {100 * limits.slowdown:g} % slower, or more"
        f" than {100 * limits.miou_drop:g} points of mIoU lower{grown}; or a row that is gone."
        " Suspect: only the estimate is, or it may be the machine.",
    )
