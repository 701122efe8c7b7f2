"""One record → CSV, Markdown, and tables for a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console

from bench.record import REFERENCE, Accuracy, Report, Row, Setting
from bench.report import columns, figures
from bench.report.columns import COST, SPEED, Column, Line, reasons, rows_of
from bench.report.notes import notes
from dabnet import tables
from dabnet.intervals import Interval

LAYERS_SHOWN = 10


def csv_text(report: Report) -> str:
    """Return the record's summary as CSV: one line per row and scope, numbers in base units.

    Shares are in 0…1, times in seconds, energy in joules; what was not measured is empty. A row
    without a timing has one line whose ``scope`` is empty.
    """
    known = [column for column in columns.COLUMNS if column.key]
    lines = [Line(row, timing) for row in report.rows for timing in (row.timings or (None,))]
    values = [[(column.key, column.of(line)) for column in known] for line in lines]
    intervals = {key for line in values for key, value in line if isinstance(value, Interval)}
    ends = ("", "_low", "_high")
    names = [c.key + end for c in known for end in (ends if c.key in intervals else ends[:1])]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(dict(_flat(line)) for line in values)
    return text.getvalue()


def _flat(values: Iterable[tuple[str, object]]) -> Iterable[tuple[str, object]]:
    for key, value in values:
        if isinstance(value, Interval):
            yield from ((key, value.value), (f"{key}_low", value.low), (f"{key}_high", value.high))
        else:
            yield key, value


# --- tables of text ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of text.

    Attributes:
        headings: of the columns.
        lines: cells, as many in each line as there are headings.
        left: headings of the columns that hold words; the others hold figures.
    """

    title: str
    headings: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    left: tuple[str, ...]


def speed_grid(report: Report, setting: Setting) -> Grid | None:
    """Accuracy beside speed of the rows that ran; None where none did."""
    return _grid(str(setting), report, setting, SPEED)


def cost_grid(report: Report, setting: Setting) -> Grid | None:
    """Memory, start, energy and clock of the rows that ran; None where none did."""
    return _grid(f"cost: {setting}", report, setting, COST)


def _grid(title: str, report: Report, setting: Setting, name: str) -> Grid | None:
    shown, lines = columns.table(report, setting, name)
    cells = tuple(tuple(_cell(column, line) for column in shown) for line in lines)
    left = tuple(column.title for column in shown if column.is_words)
    return Grid(title, tuple(column.title for column in shown), cells, left) if lines else None


def _cell(column: Column, line: Line) -> str:
    if not column.brief:
        return column.cell(line)
    value, _, rest = figures.parts(column.cell(line))
    return f"{value} {rest}".rstrip()


def accuracy_grids(report: Report) -> dict[Setting, Grid]:
    """IoU of each class and category with its difference to FP32; settings of equal scores once."""
    grids: dict[Setting, Grid] = {}
    for setting in report.settings:
        rows = [row for row in rows_of(report, setting) if row.score]
        grid = _accuracy_grid(report, rows, "accuracy at {}x{}, %".format(*setting.size))
        if rows and all(
            (grid.headings, grid.lines) != (g.headings, g.lines) for g in grids.values()
        ):
            grids[setting] = grid
    return grids


def _accuracy_grid(report: Report, rows: list[Row], title: str) -> Grid:
    scores = {row.name: _shares(report, row.accuracy) for row in rows if row.accuracy}
    reference = scores.get(REFERENCE, {})
    lines = tuple(
        (name, *(_beside(scores[row].get(name), reference.get(name), row) for row in scores))
        for name in dict.fromkeys(name for shares in scores.values() for name in shares)
    )
    return Grid(title, ("IoU of", *scores), lines, left=("IoU of",))


def _shares(report: Report, accuracy: Accuracy) -> dict[str, float | None]:
    """What a score holds, by name."""
    score, native = accuracy.score, accuracy.native_score
    if score is None:
        return {}
    categories = zip(report.categories, score.category_iou, strict=True)
    return {
        "mean IoU": score.miou.value,
        **({"mean IoU at the labels' size": native.miou.value} if native else {}),
        "pixel accuracy": score.pixel_accuracy,
        **dict(zip(report.classes, score.class_iou, strict=True)),
        **{f"category {name}": iou for name, iou in categories},
    }


def _beside(value: float | None, reference: float | None, row: str) -> str:
    """A share in %, and in brackets how many points it is from that of the reference."""
    if value is None or reference is None or row == REFERENCE:
        return figures.percent(value)
    return f"{figures.percent(value)} ({figures.signed(value - reference, scale=100)})"


def layer_grid(report: Report) -> Grid | None:
    """The longest layers of each row, in one table; None where no row has a profile."""
    several = len(report.settings) > 1
    lines = tuple(
        (
            f"{row.name}, {row.setting}" if several else row.name,
            layer.name,
            layer.kind,
            figures.milliseconds(1000 * layer.seconds),
            figures.percent(layer.share, 1),
        )
        for row in report.rows
        for layer in row.layers[:LAYERS_SHOWN]
    )
    headings = ("artifact", "layer", "kind", "ms", "share %")
    return Grid("longest layers", headings, lines, left=headings[:3]) if lines else None


# --- Markdown ---------------------------------------------------------------------------------


def markdown(report: Report) -> str:
    """Return all tables of the record, and what their numbers are of."""
    of = f"{report.dataset} {report.split}".strip()
    lines = [f"# {report.model} on {of}", ""]
    for setting in report.settings:
        lines += _section(speed_grid(report, setting))
        failed = [f"- {_text(reason)}" for reason in reasons(report, setting)]
        lines += [*failed, ""] if failed else []
    lines += [*(f"- {_text(note)}" for note in notes(report)), ""]
    costs = (cost_grid(report, setting) for setting in report.settings)
    for grid in (*costs, *accuracy_grids(report).values(), layer_grid(report)):
        lines += _section(grid)
    return "\n".join(lines).rstrip("\n") + "\n"


def _section(grid: Grid | None) -> list[str]:
    if grid is None:
        return []
    return [
        f"## {grid.title}",
        "",
        _line(grid.headings),
        "|" + "".join("---|" if heading in grid.left else "---:|" for heading in grid.headings),
        *(_line(cells) for cells in grid.lines),
        "",
    ]


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(_text(cell).replace("|", "\\|") for cell in cells) + " |"


def _text(text: str) -> str:
    """One line that is no markup: names of layers and reasons hold <, * and line ends."""
    joined = " ".join(text.split())
    for character in "\\`*_<":
        joined = joined.replace(character, "\\" + character)
    return joined


# --- terminal ---------------------------------------------------------------------------------


def print_report(report: Report, console: Console | None = None) -> None:
    """Print the tables, why rows did not run, and what the numbers are of; by default on stdout."""
    console = console or tables.terminal()
    for setting in report.settings:
        _print(console, speed_grid(report, setting))
        for reason in reasons(report, setting):
            tables.line(console, reason)
    costs = (cost_grid(report, setting) for setting in report.settings)
    for grid in (*costs, *accuracy_grids(report).values(), layer_grid(report)):
        _print(console, grid)
    for note in notes(report):
        console.print(note, markup=False)


def _print(console: Console, grid: Grid | None) -> None:
    """One table, or several below each other where the terminal is too narrow for all columns."""
    if grid is None:
        return
    cells = [c for c in zip(grid.headings, *grid.lines, strict=True) if c[0] != "note"]
    words = [column for column in cells if column[0] in grid.left]
    others = [column for column in cells if column[0] not in grid.left]
    if sum(map(_width, cells)) > console.width:
        others = [tuple(map(_fold, column)) for column in others]
    title = grid.title
    while others:
        fitting, room = list(words), max(console.width - sum(map(_width, words)), 24)
        while others and (len(fitting) == len(words) or room >= _width(others[0])):
            room -= _width(others[0])
            fitting.append(others.pop(0))
        headings, *lines = zip(*fitting, strict=True)
        drawn = tables.table(*headings, left=grid.left)
        drawn.title, drawn.title_justify, title = title, "left", ""
        for line in lines:
            tables.row(drawn, *line)
        console.print(drawn)


def _width(cells: tuple[str, ...]) -> int:
    """Characters that a column takes where no cell is cut, with the space beside it."""
    return 2 + max(len(part) for cell in cells for part in cell.split("\n"))


def _fold(cell: str) -> str:
    """With the interval, or what follows one, on a line of its own."""
    value, interval, rest = figures.parts(cell)
    lines = (f"{value} {interval}", rest) if rest else (value, interval)
    return "\n".join(filter(None, lines)) if interval else cell
