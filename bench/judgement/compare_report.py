"""A comparison as a table with a last line, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

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
from dabnet.tables import line, row, table

FORMAT = 1
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


def print_comparison(console: Console, found: Comparison, limits: Limits) -> None:
    """Print what differs between the runs, the table and, last, one line of verdict."""
    for difference in found.differences:
        line(console, f"differs: {difference}")
    several = len({finding.setting for finding in found.findings}) > 1
    where = ["setting"] if several else []
    headings = ["result", "artifact", *where, "what", "old", "new", "new to old", "normalised"]
    drawn = table(*headings, "note", left=("artifact", "setting", "what", "note"))
    if not several:
        drawn.title, drawn.title_justify = str(found.findings[0].setting), "left"
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
    others = (f"{many} {name}" for name in (SUSPECT, NOT_JUDGED) if (many := found.count(name)))
    told = ", ".join(others)
    return f"{text}; {told}" if told else text


def comparison_text(found: Comparison, limits: Limits, old: Path, new: Path) -> str:
    """The comparison as JSON: shares in 0…1, times in ms, memory in bytes."""
    values = {
        "format": FORMAT,
        "old": str(old),
        "new": str(new),
        "limits": asdict(limits),
        "regressions": found.count(REGRESSION),
        "passed": found.count(REGRESSION) == 0,
        **asdict(found),
    }
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
    )
