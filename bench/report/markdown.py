"""One record → Markdown."""

from __future__ import annotations

from bench.record import Report
from bench.report.cells import Grid, accuracy_grids, cost_grid, layer_grid, speed_grid
from bench.report.footnotes import footnotes


def markdown(report: Report) -> str:
    """Return all tables of the record, and what their numbers are of."""
    of = f"{report.dataset} {report.split}".strip()
    lines = [f"# {report.model} on {of}", ""]
    for setting in report.settings:
        lines += _section(speed_grid(report, setting))
    lines += [*(f"- {_text(note)}" for note in footnotes(report)), ""]
    for setting in report.settings:
        lines += _section(cost_grid(report, setting))
    for grid in (*accuracy_grids(report), layer_grid(report)):
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
