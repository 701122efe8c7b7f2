"""One record → tables for a terminal of 100 columns or more."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console
from rich.table import Table

from bench.record import Report, Setting
from bench.report.cells import (
    LIMIT,
    Grid,
    accuracy_grids,
    cost_grid,
    failure,
    layer_grid,
    speed_grid,
)
from bench.report.figures import NONE
from bench.report.footnotes import footnotes
from export.tables import line, row, table, terminal

_PERCENTILES = ("p50 ms", "p95 ms", "p99 ms")


def print_report(report: Report, console: Console | None = None) -> None:
    """Print the tables, why rows did not run, and what the numbers are of; by default on stdout."""
    console = console or terminal()
    for setting in report.settings:
        _print(console, _widest_that_fits(console, speed_grid(report, setting)))
        for text in reasons(report, setting):
            line(console, text)
    for setting in report.settings:
        _print(console, cost_grid(report, setting))
    for grid in (*accuracy_grids(report), layer_grid(report)):
        _print(console, grid)
    for text in footnotes(report):
        console.print(text, markup=False)


def reasons(report: Report, setting: Setting) -> list[str]:
    """Why rows did not run, one line a reason: beside the table they would make it unreadable."""
    names: dict[str, list[str]] = {}
    for each in report.rows:
        if each.reason and each.setting == setting:
            names.setdefault(failure(each), []).append(each.name)
    return [f"{', '.join(rows)}: {reason}" for reason, rows in names.items()]


def _print(console: Console, grid: Grid | None) -> None:
    if grid is not None:
        console.print(_table(grid))


def _widest_that_fits(console: Console, grid: Grid) -> Grid:
    """Everything on one line, intervals on a second, or percentiles below each other."""
    one = _without_notes(grid)
    two = _merged(_folded(one), " / ")
    three = _merged(_folded(_without(one, LIMIT)), "\n")
    three = replace(three, lines=tuple(map(_folded_name, three.lines)))
    fits = (layout for layout in (one, two) if _natural_width(layout) <= console.width)
    return next(fits, three)


def _natural_width(grid: Grid) -> int:
    """Columns that the table takes where no cell is folded."""
    columns = zip(grid.headings, *grid.lines, strict=True)
    longest = (max(len(part) for cell in cells for part in cell.split("\n")) for cells in columns)
    return sum(width + 2 for width in longest)


def _without_notes(grid: Grid) -> Grid:
    """The notes stand below; what is left of a row that did not run says so beside its name."""
    lines = tuple(
        (cells[0], cells[-1].partition(":")[0] if _is_failure(cells) else cells[1], *cells[2:])
        for cells in grid.lines
    )
    return _without(replace(grid, lines=lines), "note")


def _is_failure(cells: tuple[str, ...]) -> bool:
    return cells[1] == NONE and cells[-1].startswith(("not run:", "failed:"))


def _without(grid: Grid, heading: str) -> Grid:
    at = grid.headings.index(heading)
    lines = tuple((*cells[:at], *cells[at + 1 :]) for cells in grid.lines)
    return replace(grid, headings=(*grid.headings[:at], *grid.headings[at + 1 :]), lines=lines)


def _folded(grid: Grid) -> Grid:
    """With intervals, and the verdict after one, on a line of their own."""
    headings = (
        _fold(heading).replace("device ", "device\n").replace("agrees ", "agrees\n")
        for heading in grid.headings
    )
    lines = tuple(tuple(map(_fold, cells)) for cells in grid.lines)
    return replace(grid, headings=tuple(headings), lines=lines)


def _fold(cell: str) -> str:
    interval, bracket, verdict = cell.partition("] ")
    if bracket:
        return f"{interval}]\n{verdict}"
    value, bracket, interval = cell.partition(" [")
    return f"{value}\n[{interval}" if bracket else cell


def _folded_name(cells: tuple[str, ...]) -> tuple[str, ...]:
    """``onnxruntime-int8`` on two lines."""
    return (cells[0].replace("-", "-\n", 1), *cells[1:])


def _merged(grid: Grid, separator: str) -> Grid:
    """With the percentiles in one column."""
    start = grid.headings.index(_PERCENTILES[0])
    end = start + len(_PERCENTILES)

    def merge(cells: tuple[str, ...], joined: str) -> tuple[str, ...]:
        return (*cells[:start], joined, *cells[end:])

    def together(cells: tuple[str, ...]) -> str:
        times = cells[start:end]
        return NONE if set(times) == {NONE} else separator.join(times)

    lines = tuple(merge(cells, together(cells)) for cells in grid.lines)
    heading = separator.join(("p50", "p95", "p99 ms"))
    return replace(grid, headings=merge(grid.headings, heading), lines=lines)


def _table(grid: Grid) -> Table:
    first, *others = grid.headings
    drawn = table(first, *others, left=grid.left)
    drawn.title, drawn.title_justify = grid.title, "left"
    for cells in grid.lines:
        row(drawn, *cells)
    return drawn
