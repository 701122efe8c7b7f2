"""One record → CSV, Markdown, and tables for a terminal."""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

from rich.console import Console

from bench.record import REFERENCE, Report, Row, Setting
from bench.record.timing import SEARCH
from bench.report import columns
from bench.report.columns import CAMERA, COST, SPEED, Grid, Line, reasons, rows_of, table
from bench.report.figures import milliseconds, parts, percent, signed
from bench.report.notes import notes
from dabnet import tables
from dabnet.errors import printable
from dabnet.intervals import Interval

GROUP = "machine"
"""Heading of what the lines of several records belong to."""
NARROW = 24
"""Characters of a line of it in a terminal."""


def csv_text(report: Report) -> str:
    """Return the record's summary as CSV: one line per row and scope, numbers in base units.

    Shares are in 0…1, times in seconds, energy in joules; what was not measured is empty. A row
    without a timing has one line whose ``scope`` is empty.
    """
    return csv_of(csv_lines(report))


def csv_lines(report: Report) -> list[Line]:
    """A line per row and scope, and one of a row without a timing."""
    return [
        Line(row, report.subject(row), timing)
        for row in report.rows
        for timing in ([t for t in row.timings if t.scope != SEARCH] or (None,))
    ]


def csv_of(lines: Sequence[Line], **first: Sequence[object]) -> str:
    """The CSV of lines; ``first`` are the columns before the usual ones, by name."""
    cells: dict[str, list[object]] = {
        name: [*map(_no_formula, values)] for name, values in first.items()
    }
    for column in (column for column in columns.COLUMNS if column.key):
        values = [_no_formula(column.of(line)) for line in lines]
        cells[column.key] = [v.value if isinstance(v, Interval) else v for v in values]
        for end in ("low", "high") if any(isinstance(v, Interval) for v in values) else ():
            cells[f"{column.key}_{end}"] = [getattr(value, end, None) for value in values]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows((cells, *zip(*cells.values(), strict=True)))
    return text.getvalue()


def _no_formula(value: object) -> object:
    """A text that no spreadsheet computes: one that begins as a formula gets a ' before it."""
    if not isinstance(value, str):
        return value
    computed = value.lstrip().startswith(("=", "+", "-", "@"))
    return printable(f"'{value}" if computed else value)


def accuracy_grids(report: Report) -> dict[Setting, list[Grid]]:
    """IoU of each class and category with its difference to FP32, a grid for each subject.

    Settings of equal scores have one.
    """
    grids: dict[Setting, list[Grid]] = {}
    known: list[Grid] = []
    for setting in report.settings:
        rows = [row for row in rows_of(report, setting) if row.score]
        made = [
            _accuracy_grid(report, [row for row in rows if row.of == of])
            for of in dict.fromkeys(row.of for row in rows)
        ]
        if new := [grid for grid in made if grid not in known]:
            grids[setting] = new
            known += new
    return grids


def _accuracy_grid(report: Report, rows: Sequence[Row]) -> Grid:
    """The grid of the rows of one subject."""
    scores = {row.on: _shares(report, row) for row in rows}
    reference = scores.get(REFERENCE, {})
    lines = tuple(
        (name, *(_beside(of.get(name), reference.get(name), row) for row, of in scores.items()))
        for name in dict.fromkeys(name for of in scores.values() for name in of)
    )
    of = f" of {rows[0].of}" if rows[0].of else ""
    title = f"accuracy{of} at {'{}x{}'.format(*rows[0].setting.size)}, %"
    return Grid(title, ("IoU of", *scores), lines, left=("IoU of",), of=rows[0].of)


def _shares(report: Report, row: Row) -> dict[str, float | None]:
    """What the score of a row holds, by name."""
    score, native = row.score, row.accuracy.native_score if row.accuracy else None
    if score is None:
        return {}
    categories = (f"category {name}" for name in report.categories)
    return {
        "mean IoU": score.miou.value,
        **({"mean IoU at the labels' size": native.miou.value} if native else {}),
        "pixel accuracy": score.pixel_accuracy,
        **dict(zip(report.classes, score.class_iou, strict=True)),
        **dict(zip(categories, score.category_iou, strict=True)),
    }


def _beside(value: float | None, reference: float | None, row: str) -> str:
    """A share in %, and in brackets how many points it is from that of the reference."""
    if value is None or reference is None or row == REFERENCE:
        return percent(value)
    return f"{percent(value)} ({signed(value - reference, scale=100)})"


def layer_grid(report: Report) -> Grid:
    """The ten longest layers of each row; without lines where no row has a profile."""
    lines = tuple(
        (
            f"{row.name}, {row.setting}" if len(report.settings) > 1 else row.name,
            layer.name,
            layer.kind,
            milliseconds(1000 * layer.seconds),
            percent(layer.share, 1),
        )
        for row in report.rows
        for layer in row.layers[:10]
    )
    headings = ("artifact", "layer", "kind", "ms", "share %")
    return Grid("longest layers", headings, lines, left=headings[:3])


def _more_grids(report: Report) -> Iterator[Grid]:
    """The tables below the notes."""
    for name in (CAMERA, COST):
        yield from (table(report, setting, name) for setting in report.settings)
    yield from (*chain(*accuracy_grids(report).values()), layer_grid(report))


def markdown(report: Report) -> str:
    """Return all tables of the record, and what their numbers are of."""
    parts: list[Grid | Sequence[str]] = []
    for setting in report.settings:
        parts += [table(report, setting, SPEED), reasons(report, setting)]
    title = f"{report.title} on {report.dataset} {report.split}".rstrip()
    return markdown_of(title, [*parts, notes(report), *_more_grids(report)])


def markdown_of(title: str, parts: Sequence[Grid | Sequence[str]]) -> str:
    """Tables and lists of lines under a title."""
    texts = [_section(part) if isinstance(part, Grid) else _bullets(part) for part in parts]
    return "\n\n".join(filter(None, (_text(f"# {title}"), *texts))) + "\n"


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_text(line)}" for line in lines)


def _section(grid: Grid) -> str:
    grid = _grouped(grid)
    rule = "".join("---|" if heading in grid.left else "---:|" for heading in grid.headings)
    lines = [_line(grid.headings), f"|{rule}", *map(_line, grid.lines)]
    return "\n".join((f"## {_text(grid.title)}", "", *lines)) if grid.lines else ""


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(_text(cell).replace("|", "\\|") for cell in cells) + " |"


def _text(text: str) -> str:
    """One line that is no markup: names of layers and reasons hold <, * and line ends.

    Nor is it a link or an image, which a viewer would load.
    """
    joined = printable(" ".join(text.split()))
    for character in "\\`*_<":
        joined = joined.replace(character, "\\" + character)
    return re.sub(r"\](?=[(\[:])", r"\\]", joined)


def print_report(report: Report, console: Console | None = None) -> None:
    """Print the tables, why rows did not run, and what the numbers are of; by default on stdout."""
    console = console or tables.terminal()
    for setting in report.settings:
        print_grid(console, table(report, setting, SPEED))
        for reason in reasons(report, setting):
            tables.line(console, reason)
    for more in _more_grids(report):
        print_grid(console, more)
    for note in notes(report):
        console.print(tables.plain(note))


def _grouped(grid: Grid, width: int | None = None) -> Grid:
    """With its groups as the first column, each told once, in lines of that width."""
    if not (groups := grid.groups):
        return grid
    told = [
        "" if n and groups[n - 1] == group else textwrap.fill(group, width) if width else group
        for n, group in enumerate(groups)
    ]
    lines = tuple((group, *line) for group, line in zip(told, grid.lines, strict=True))
    headings, left = (GROUP, *grid.headings), (GROUP, *grid.left)
    return replace(grid, headings=headings, lines=lines, left=left)


def print_grid(console: Console, grid: Grid) -> None:
    """One table, or several below each other where the terminal is too narrow for all columns."""
    grid = _grouped(grid, NARROW)
    cells = list(zip(grid.headings, *grid.lines, strict=True))
    words = [column for column in cells if column[0] in grid.left]
    others = [column for column in cells if column[0] not in grid.left]
    if sum(map(_width, cells)) > console.width:
        others = [tuple(map(_fold, column)) for column in others]
    title = grid.title
    while others and grid.lines:
        fitting, room = list(words), max(console.width - sum(map(_width, words)), 24)
        while others and (len(fitting) == len(words) or room >= _width(others[0])):
            room -= _width(others[0])
            fitting.append(others.pop(0))
        headings, *lines = zip(*fitting, strict=True)
        drawn = tables.table(*headings, left=grid.left, title=title)
        title = ""
        for line in lines:
            tables.row(drawn, *line)
        console.print(drawn)


def _width(cells: tuple[str, ...]) -> int:
    """Characters that a column takes where no cell is cut, with the space beside it."""
    return 2 + max(len(part) for cell in cells for part in cell.split("\n"))


def _fold(cell: str) -> str:
    """With the interval, or what follows one, on a line of its own."""
    value, interval, rest = parts(cell)
    lines = (f"{value} {interval}", rest) if rest else (value, interval)
    return "\n".join(filter(None, lines)) if interval else cell
