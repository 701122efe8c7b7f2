"""Tables and lines on stdout, for the commands that report rather than write."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dabnet.encoding import adapted
from dabnet.errors import printable

_PIPE_WIDTH = 160


def terminal() -> Console:
    """A console on stdout.

    A pipe or a log gets tables of 160 columns without control characters, also with FORCE_COLOR.
    """
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(width=_PIPE_WIDTH, highlight=False, force_terminal=False)


def table(first: str, *others: str, left: tuple[str, ...] = (), title: str = "") -> Table:
    """An empty table whose first column, and those named in ``left``, hold text; others figures.

    In a narrow terminal cells are folded: neither a name nor a figure is cut off.
    """
    made = Table(box=box.SIMPLE_HEAD, collapse_padding=True, title_justify="left")
    made.title = plain(title) if title else None
    made.add_column(plain(first), overflow="fold")
    for heading in others:
        justify = "left" if heading in left else "right"
        made.add_column(plain(heading), justify=justify, overflow="fold")  # type: ignore[arg-type]
    return made


def row(made: Table, *cells: str, style: str | None = None) -> None:
    """Add a row of plain text."""
    made.add_row(*map(plain, cells), style=style)


def line(console: Console, text: str) -> None:
    """Print one line of plain text, which is never folded; a name in it ends no line."""
    console.print(plain(" ".join(text.splitlines())), soft_wrap=True)


def plain(text: str) -> Text:
    """Text for rich on stdout: ``[cpu]`` is no markup and ``:gun:`` no emoji."""
    return Text(adapted(printable(text), sys.stdout.encoding))


def percent(share: float) -> str:
    """0.98765 → ``98.765``."""
    return f"{100 * share:.3f}"
