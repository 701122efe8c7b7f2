"""Errors as one line, size options and progress bars for the three commands."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dabnet.device import AUTO, Device
from dabnet.errors import DabnetError, InputError, printable, shortened

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

Command = TypeVar("Command", bound=Callable[..., Any])

ProgressBar = Callable[..., AbstractContextManager[Callable[[], None]]]
"""(what, steps) → a bar whose function is called once per step: ``progress_bar``, or a test's."""

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

FILE = click.Path(path_type=Path)
# Options may be written with underscores, as in the published code.
CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda token: token.replace("_", "-"),
    "max_content_width": 100,
}


def run(command: click.Command) -> None:
    """Run a command; a fault that the user can repair is one line on stderr and exit code 2."""
    try:
        status = command.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        _fail(error.format_message())
    except DabnetError as error:
        _fail(str(error))
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str) -> None:
    click.echo("error: " + shortened(printable(" ".join(message.split()))), err=True)
    sys.exit(EXIT_BAD_INPUT)


def options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Join click options into one decorator; ``--help`` lists them in this order."""

    def decorate(function: Command) -> Command:
        for option in reversed(decorators):
            function = option(function)
        return function

    return decorate


class Size(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """HEIGHTxWIDTH in pixels, also HEIGHT,WIDTH as in the published code."""

    name = "HxW"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)[x,](\d+)", value.strip())
        if match is None:
            self.fail(f"{value!r} is not a size; expected HEIGHTxWIDTH, such as 512x1024")
        return int(match[1]), int(match[2])


class DeviceName(click.ParamType):  # type: ignore[type-arg]
    """``auto``, or a device as ``dabnet.device`` reads it."""

    name = "device"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        try:
            return AUTO if value == AUTO else str(Device.parse(value))
        except InputError as error:
            self.fail(str(error), param, ctx)


def device_option(help: str = "") -> Callable[[Command], Command]:
    """``--device``, by default ``auto``."""
    kinds = "auto|cpu|cuda|cuda:N"
    return click.option(
        "--device", type=DeviceName(), metavar=kinds, default=AUTO, show_default=True, help=help
    )


class Finite(click.FloatRange):
    """A number within limits, as of ``click.FloatRange``; neither NaN nor infinity.

    NaN passes every limit of click's, since no comparison with it holds.
    """

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not finite; expected a finite number", param, ctx)
        return number


class Factors(click.ParamType):  # type: ignore[type-arg]
    """Finite numbers separated by commas."""

    name = "X,Y,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            factors = tuple(float(part) for part in value.split(","))
        except ValueError:
            factors = (math.nan,)
        if not all(map(math.isfinite, factors)):
            self.fail(f"{value!r} is not a list of finite numbers; expected such as 0.75,1,1.25")
        return factors


class Dilations(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers separated by commas."""

    name = "N,N,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", value):
            self.fail(f"{value!r} is not a list of whole numbers; expected such as 2,2,2,4,4,8")
        return tuple(map(int, value.split(",")))


def console() -> Console:
    """Return a console on stderr: tables and results go to stdout, progress does not."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@contextmanager
def progress_bar(
    what: str, total: int, unit: str = "images", shown: bool = True
) -> Iterator[Callable[[], None]]:
    """Show a bar while the block runs; call what is yielded once per step."""
    with progress_columns(unit, shown) as bar:
        task = bar.add_task(what, total=total, text="")
        yield lambda: bar.advance(task)


def progress_columns(unit: str, shown: bool = True) -> Progress:
    """Return a progress display whose tasks have a field ``text`` for further information.

    It is visible on a terminal only, and only if ``shown``.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    terminal = console()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=terminal,
        transient=True,
        disable=not (shown and terminal.is_terminal),
    )
