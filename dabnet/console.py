"""Running a command in any terminal, its errors as one line, types of options, progress bars."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
from click.core import ParameterSource

from dabnet.device import AUTO, Device
from dabnet.encoding import adapt
from dabnet.errors import DabnetError, InputError, printable, shortened
from dabnet.interrupt import EXIT_INTERRUPTED, interrupt_on_signals
from dabnet.own_process import continue_in_child
from dabnet.starvation import lack_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., Any])

ProgressBar = Callable[..., AbstractContextManager[Callable[[], None]]]
"""(what, steps) → a bar whose function is called once per step: ``progress_bar``, or a test's."""

EXIT_BAD_INPUT = 2
EXIT_UNREAD = 141  # 128 + SIGPIPE: who read the output has left, such as ``head``

MOST_NAME, MOST_PATH = 255, 4095
"""The longest name of a file and the longest path in bytes, as of Linux."""


class FileName(click.Path):
    """A name that a file or folder can have: not empty, as a shell variable that is not set."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:
        name = os.fsencode(value)
        if not name:
            self.fail("an empty name; expected that of a file or folder", param, ctx)
        if len(name) > MOST_PATH or max(map(len, name.split(b"/"))) > MOST_NAME:
            most = f"at most {MOST_NAME} bytes between two /, and {MOST_PATH} in all"
            self.fail(f"a name of {len(name)} bytes; expected {most}", param, ctx)
        super().convert(value, param, ctx)
        return Path(os.fsdecode(name))


FILE = FileName(path_type=Path)
# Options may be written with underscores, as in the published code.
CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda token: token.replace("_", "-"),
}


def run(command: click.Command, apart: bool = False) -> None:
    """Run a command in any terminal, and exit; ``apart``: in a process of its own.

    What the user can repair is one line on stderr and exit code 2: a DabnetError, and what the
    machine lacks. SIGTERM and SIGHUP end the command as Ctrl-C does, without temporary files.
    """
    _prepare()
    stdout = sys.stdout
    try:
        if apart:
            continue_in_child()
        status = command.main(standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        _fail(error.format_message())
    except DabnetError as error:
        _fail(str(error))
    except (KeyboardInterrupt, click.Abort):
        _interrupted()
    except BrokenPipeError:
        _exit(EXIT_UNREAD)
    except SystemExit as stop:
        # On a broken pipe click replaces stdout and exits; rich exits within the handler.
        unread = sys.stdout is not stdout or isinstance(stop.__context__, BrokenPipeError)
        _exit(EXIT_UNREAD if unread else stop.code)
    except Exception as error:
        if (lack := lack_of(error)) is None:
            raise
        _fail(str(lack))
    _exit(status if isinstance(status, int) else 0)


def _prepare() -> None:
    """Let any text reach any terminal.

    A stream that is closed takes all and keeps nothing. A character that the encoding of a stream
    lacks becomes its like in ASCII, or an escape such as ``\\xe9`` (``dabnet.encoding``).
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            _keep_taken(number)
            setattr(sys, name, Path(os.devnull).open("r+", encoding="utf-8"))  # noqa: SIM115
        elif number:
            adapt(stream)
    # Figures are drawn into files only; matplotlib fails to import with a name that it does not
    # know.
    os.environ["MPLBACKEND"] = "agg"
    interrupt_on_signals()


def _keep_taken(number: int) -> None:
    """Open a closed descriptor: the next file would get it, and all that is printed."""
    try:
        os.fstat(number)
    except OSError:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor != number:
            os.dup2(descriptor, number)
            os.close(descriptor)


def say(text: str, err: bool = False, nl: bool = True) -> None:
    """Print what may hold names of files, as ``click.echo`` does, without control characters.

    What is lost on stderr ends no work. The stream is named, since click writes UTF-8 into one
    whose encoding is ASCII.
    """
    with suppress(OSError) if err else nullcontext():
        click.echo(printable(text), file=sys.stderr if err else sys.stdout, nl=nl)


def _fail(message: str) -> NoReturn:
    _exit(EXIT_BAD_INPUT, "error: " + shortened(printable(" ".join(message.split()))))


def _interrupted() -> NoReturn:
    _exit(EXIT_INTERRUPTED, "interrupted")


def _exit(status: Any, message: str = "") -> NoReturn:
    """Exit; what can no longer be printed is dropped."""
    with suppress(OSError):
        if message:
            click.echo(message, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # the interpreter would try again
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)


def options(*decorators: Callable[[AnyCommand], AnyCommand]) -> Callable[[AnyCommand], AnyCommand]:
    """Join click options into one decorator; ``--help`` lists them in this order."""

    def decorate(function: AnyCommand) -> AnyCommand:
        for option in reversed(decorators):
            function = option(function)
        return function

    return decorate


def refuse_typed(names: Iterable[str], what: str, expected: str, fix: str) -> None:
    """Raise InputError if a parameter of these names was typed, which has no effect on ``what``."""
    context = click.get_current_context()
    typed = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in names
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if typed:
        raise InputError(f"{', '.join(typed)} for {what}", expected, fix)


MOST_SIDE = 16384
"""The largest height and width of an image for a network, in pixels."""
MOST_PIXELS = 1 << 26
"""The most pixels of such an image: 8192x8192."""
MOST_IMAGES = 1_000_000
"""The most images that an option may count."""
MOST_THREADS = 1024
"""The most CPU threads of one runner."""


class Size(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """HEIGHTxWIDTH in pixels, also HEIGHT,WIDTH as in the published code."""

    name = "HxW"
    numbers = 2
    expected = "HEIGHTxWIDTH, such as 512x1024"

    def get_metavar(self, param: Any, ctx: Any = None) -> str:
        return self.name

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        digits = re.split("[x,]", value.strip())
        if len(digits) != self.numbers or not all(re.fullmatch("[0-9]+", part) for part in digits):
            self.fail(f"{value!r} is not a size; expected {self.expected}", param, ctx)
        sides = tuple(int(part) if len(part) < 20 else MOST_PIXELS for part in digits)
        if max(sides) > MOST_SIDE or math.prod(sides[-2:]) > MOST_PIXELS:
            most = f"sides of at most {MOST_SIDE}, and at most {MOST_PIXELS} pixels"
            self.fail(f"{value!r} is too large; expected {most}", param, ctx)
        return sides


class DeviceName(click.ParamType):  # type: ignore[type-arg]
    """``auto``, or a device as ``dabnet.device`` reads it."""

    name = "device"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        try:
            return AUTO if value == AUTO else str(Device.parse(value))
        except InputError as error:
            self.fail(str(error), param, ctx)


def device_option(shown: str = AUTO) -> Callable[[AnyCommand], AnyCommand]:
    """``--device``, by default ``auto``; ``shown``: what that is for a command."""
    kinds = "auto, cpu, cuda or cuda:N."
    return click.option(
        "--device",
        type=DeviceName(),
        metavar="DEVICE",
        default=AUTO,
        show_default=shown,
        help=kinds,
    )


trust_option = click.option(
    "--trust",
    is_flag=True,
    help="Load an engine that no manifest vouches for; no other file needs it.",
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


class Percent(Finite):
    """Percent within limits, with or without ``%``, as a share."""

    name = "percent"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        number = value.removesuffix("%").rstrip() if isinstance(value, str) else value
        try:
            return super().convert(number, param, ctx) / 100
        except click.BadParameter:
            limits = f"from {self.min:g}% to {self.max:g}%"
            self.fail(f"{value!r} is not a percentage {limits}, such as 2%", param, ctx)


class Factors(click.ParamType):  # type: ignore[type-arg]
    """Finite numbers separated by commas, each from ``-most`` to ``most``."""

    name = "X,Y,…"
    most = 1000.0

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            factors = tuple(float(part) for part in value.split(","))
        except ValueError:
            factors = (math.nan,)
        if not all(-self.most <= factor <= self.most for factor in factors):
            expected = f"such as 0.75,1,1.25, from -{self.most:g} to {self.most:g}"
            self.fail(f"{value!r} is not a list of finite numbers; expected {expected}", param, ctx)
        return factors


class Dilations(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers below 1000 separated by commas."""

    name = "N,N,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r"[0-9]{1,3}(,[0-9]{1,3})*", value):
            expected = "such as 2,2,2,4,4,8, each at most 999"
            self.fail(f"{value!r} is not a list of whole numbers; expected {expected}", param, ctx)
        return tuple(map(int, value.split(",")))


class _Lossy:
    """A text stream whose loss, as on a full disk, ends no work: it takes no results."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def console() -> Console:
    """Return a console on stderr: tables and results go to stdout, progress does not.

    FORCE_COLOR makes no file a terminal: bars would fill logs.
    """
    from rich.console import Console

    on_terminal = None if sys.stderr.isatty() else False
    stream: Any = _Lossy(sys.stderr)
    return Console(file=stream, highlight=False, force_terminal=on_terminal)


@contextmanager
def progress_bar(
    what: str, total: int | None, unit: str = "images", shown: bool = True
) -> Iterator[Callable[[], None]]:
    """Show a bar while the block runs; call what is yielded once per step.

    Args:
        total: number of steps; None if nobody knows it.
    """
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
