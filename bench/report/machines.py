"""Several records → tables over machines, in which each has its own reference.

Rows stand in one table that were measured in one setting and scenario and scored on one data set.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from rich.console import Console

from bench.record import Report, Setting
from bench.report.columns import (
    CAMERA,
    COST,
    SPEED,
    Grid,
    grid,
    lines_of,
    named_subjects,
    reasons,
)
from bench.report.notes import notes
from bench.report.text import csv_lines, csv_of, markdown_of, print_grid
from dabnet import tables
from dabnet.errors import InputError
from dabnet.head import MASK


@dataclass(frozen=True, slots=True)
class Record:
    """One of several records.

    Attributes:
        machine: name of its machine, and of its date or file where that has several records.
    """

    machine: str
    report: Report


@dataclass(frozen=True, slots=True)
class Group:
    """What stands in one table."""

    title: str
    parts: tuple[tuple[Record, Setting], ...]

    def table(self, *names: str, brief: bool = True) -> Grid:
        """The rows of all its records; see ``bench.report.columns.grid``."""
        lines = chain.from_iterable(
            lines_of(record.report, setting, SPEED in names, record.machine)
            for record, setting in self.parts
        )
        several = any(named_subjects(r.report) for r, _ in self.parts) or len(self._models) > 1
        title = self.title if SPEED in names else f"{names[0]}: {self.title}"
        return grid(title, [*lines], *names, several=several, brief=brief)

    @property
    def _models(self) -> set[str]:
        return {subject.label for record, _ in self.parts for subject in record.report.subjects}

    @property
    def reasons(self) -> list[str]:
        """Why rows lack results, by machine."""
        return [
            f"{record.machine}: {reason}"
            for record, setting in self.parts
            for reason in reasons(record.report, setting)
        ]


def named(records: Sequence[tuple[Path, Report]]) -> list[Record]:
    """Name the machine of each record.

    Raises:
        InputError: a record is there twice.
    """
    for number, (path, report) in enumerate(records):
        for other, same in records[:number]:
            if report == same:
                given = f"{str(other)!r} and {str(path)!r} are the same record"
                raise InputError(given, "each record once", "leave one of them out")
    names = [machine_of(report) for _, report in records]
    dates = [report.started[:16].replace("T", " ") for _, report in records]
    files, numbers = [path.name for path, _ in records], map(str, range(1, len(records) + 1))
    for words in (dates, files, numbers):
        many = Counter(names)
        names = [
            f"{name}, {word}" if many[name] > 1 else name
            for name, word in zip(names, words, strict=True)
        ]
    return [Record(name, report) for name, (_, report) in zip(names, records, strict=True)]


def machine_of(report: Report) -> str:
    """The processor with its cores and threads, or the GPU, that computed."""
    environment, scenario = report.environment, report.scenario
    if str(scenario.get("device", "cpu")).startswith("cuda"):
        return environment.get("gpu", "unknown GPU").partition(" (compute")[0]
    processor = re.sub(r"\((R|TM)\)", "", environment.get("processor", "unknown processor"))
    return f"{processor}, {scenario.get('cpu_threads', '?')} threads"


def groups(records: Sequence[Record]) -> list[Group]:
    """The tables, in the order in which the records bring them."""
    found: dict[str, list[tuple[Record, Setting]]] = {}
    for record in records:
        report = record.report
        scored = f"{report.dataset} {report.split}".rstrip()
        scenario = _scenario(report)
        for setting in report.settings:
            title = f"{setting}, {scenario}, {scored}"
            found.setdefault(title, []).append((record, setting))
    return [Group(title, tuple(parts)) for title, parts in found.items()]


def _scenario(report: Report) -> str:
    """What was timed: the scenario, its cameras, and what each call gives beside the mask."""
    asked = report.scenario
    name = str(asked.get("name", "unknown"))
    if name == CAMERA:
        name += f" {asked.get('cameras')} × {asked.get('fps')} FPS"
    heads = dict.fromkeys(row.info.head for row in report.rows if row.info)
    return name if list(heads) in ([], [MASK]) else f"{name}, {' and '.join(heads)}"


def title_of(records: Sequence[Record]) -> str:
    """Such as ``dabnet on 2 machines``."""
    models = dict.fromkeys(s.label for record in records for s in record.report.subjects)
    machines = len({machine_of(record.report) for record in records})
    several = f"{machines} machine{'s' if machines > 1 else ''}"
    many = f", {len(records)} records" if len(records) > machines else ""
    return f"{', '.join(models)} on {several}{many}"


def notes_of(records: Sequence[Record]) -> list[str]:
    """What holds of all records, and then of each."""
    own = [notes(record.report) for record in records]
    shared = [note for note in own[0] if all(note in of for of in own)]
    return [
        "Speed ratios are to the PyTorch FP32 of the same record: none is across machines.",
        *_other_weights(records),
        *shared,
        *(
            f"{record.machine}: {note}"
            for record, of in zip(records, own, strict=True)
            for note in of
            if note not in shared
        ),
    ]


def _other_weights(records: Sequence[Record]) -> Iterator[str]:
    """The subjects of one name whose files differ."""
    files: dict[str, dict[str, None]] = {}
    for subject in (subject for record in records for subject in record.report.subjects):
        if not subject.untrained:
            files.setdefault(subject.label, {})[f"{subject.file} ({subject.sha256[:12]})"] = None
    for label, found in files.items():
        if len(found) > 1:
            yield f"{label} is not one file ({', '.join(found)}): compare its speed, not its mIoU."


def machines_csv(records: Sequence[Record]) -> str:
    """``bench.report.text.csv_text`` of all records, with what each line is of."""
    lines = [csv_lines(record.report) for record in records]
    of = [record for record, own in zip(records, lines, strict=True) for _ in own]
    return csv_of(
        [*chain.from_iterable(lines)],
        machine=[record.machine for record in of],
        started=[record.report.started for record in of],
        dataset=[record.report.dataset for record in of],
        split=[record.report.split for record in of],
    )


def machines_markdown(records: Sequence[Record]) -> str:
    """All tables and notes of the records."""
    parts: list[Grid | Sequence[str]] = []
    for group in groups(records):
        parts += [group.table(SPEED), group.reasons, group.table(CAMERA), group.table(COST)]
    return markdown_of(title_of(records), [*parts, notes_of(records)])


def print_machines(records: Sequence[Record], console: Console | None = None) -> None:
    """Print all tables and notes of the records; by default on stdout."""
    console = console or tables.terminal()
    for group in groups(records):
        print_grid(console, group.table(SPEED))
        for reason in group.reasons:
            tables.line(console, reason)
        print_grid(console, group.table(CAMERA))
        print_grid(console, group.table(COST))
    for note in notes_of(records):
        console.print(tables.plain(note))
