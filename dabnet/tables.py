"""Tables and lines on stdout, for the commands that report rather than write."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dabnet.errors import printable

_PIPE_WIDTH = 160


def terminal() -> Console:
    """A console on stdout.

    A pipe or a log gets tables of 160 columns without control characters, also with FORCE_COLOR.
    """
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(width=_PIPE_WIDTH, highlight=False, force_terminal=False)


def table(first: str, *others: str, left: tuple[str, ...] = ()) -> Table:
    """An empty table whose first column, and those named in ``left``, hold text; others figures.

    In a narrow terminal cells are folded: neither a name nor a figure is cut off.
    """
    made = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
    made.add_column(first, overflow="fold")
    for heading in others:
        justify = "left" if heading in left else "right"
        made.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    return made


def row(made: Table, *cells: str, style: str | None = None) -> None:
    """Add a row of plain text: ``[cpu]`` is no markup."""
    made.add_row(*(escape(printable(cell)) for cell in cells), style=style)


def line(console: Console, text: str) -> None:
    """Print one line of plain text, which is never folded."""
    console.print(printable(text), markup=False, soft_wrap=True)


def percent(share: float) -> str:
    """0.98765 → ``98.765``."""
    return f"{100 * share:.3f}"
