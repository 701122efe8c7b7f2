"""How far an engine build is, and how Ctrl-C ends it.

API: ``IProgressMonitor`` (TensorRT 10, 11 and TensorRT-RTX). Its callbacks are called from C++,
where an exception is printed and dropped; so whatever goes wrong in one is kept and raised after.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from dabnet.console import progress_columns


class Phases(Protocol):
    """Where the phases of a build are shown. A phase may lie within another."""

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """The phase ``name`` of that many steps begins."""
        ...

    def step(self, name: str, done: int) -> None:
        """That many of its steps are done."""
        ...

    def finish(self, name: str) -> None:
        """It ends, also where not all steps were done."""
        ...


OpenPhases = Callable[[], AbstractContextManager[Phases]]


class _NoPhases:
    def start(self, name: str, parent: str | None, steps: int) -> None:
        pass

    def step(self, name: str, done: int) -> None:
        pass

    def finish(self, name: str) -> None:
        pass


@contextmanager
def no_phases() -> Iterator[Phases]:
    """Show nothing."""
    yield _NoPhases()


@contextmanager
def phase_bars() -> Iterator[Phases]:
    """Show one bar for each phase that runs, those within another below it and indented."""
    with progress_columns("steps") as bars:
        yield _PhaseBars(bars)


class _PhaseBars:
    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._tasks: dict[str, Any] = {}
        self._depths: dict[str, int] = {}

    def start(self, name: str, parent: str | None, steps: int) -> None:
        depth = self._depths.get(parent, -1) + 1 if parent else 0
        self._depths[name] = depth
        self._tasks[name] = self._bars.add_task("  " * depth + name, total=steps, text="")

    def step(self, name: str, done: int) -> None:
        self._bars.update(self._tasks[name], completed=done)

    def finish(self, name: str) -> None:
        self._bars.remove_task(self._tasks.pop(name))


@dataclass(slots=True)
class Interrupt:
    """Whether Ctrl-C was pressed since the build began."""

    requested: bool = False


@contextmanager
def interruptible(tell: Callable[[str], None]) -> Iterator[Interrupt]:
    """Turn Ctrl-C during the block into a request, and raise KeyboardInterrupt after the block.

    Raised at once it would land in a callback, where the bindings print and drop it. A second
    Ctrl-C ends the process at once, as the system does it: there are versions that cannot be asked
    to stop. Outside the main thread, where Python takes no signals, nothing is changed.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def request(number: int, frame: object) -> None:
        interrupt.requested = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        tell("stops the build; Ctrl-C again ends it at once")

    before = signal.signal(signal.SIGINT, request)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
        if interrupt.requested:
            raise KeyboardInterrupt


class KeptErrors:
    """Runs callbacks of TensorRT and keeps the first error, which C++ would drop."""

    def __init__(self) -> None:
        self._error: BaseException | None = None

    def run(self, callback: Callable[[], Any], otherwise: Any = None) -> Any:
        """Return what the callback returns; ``otherwise`` where it, or an earlier one, failed."""
        if self._error is not None:
            return otherwise
        try:
            return callback()
        except BaseException as error:
            self._error = error
            return otherwise

    def reraise(self) -> None:
        """Raise the error that was kept, if there is one."""
        if self._error is not None:
            raise self._error

    @property
    def failed(self) -> bool:
        """Whether a callback has failed."""
        return self._error is not None


def monitor_handle(module: Any, phases: Phases, interrupt: Interrupt, errors: KeptErrors) -> Any:
    """Return an ``IProgressMonitor`` that shows phases and stops the build where it must.

    ``step_complete`` returns False after Ctrl-C or a failed callback; the builder then returns no
    engine.
    """

    def step_complete(_: Any, name: str, step: int) -> bool:
        errors.run(lambda: phases.step(name, step + 1))
        return not (interrupt.requested or errors.failed)

    members = {
        "phase_start": lambda _, name, parent, steps: errors.run(
            lambda: phases.start(name, parent, steps)
        ),
        "step_complete": step_complete,
        "phase_finish": lambda _, name: errors.run(lambda: phases.finish(name)),
    }
    # The base class is known only at run time, so ``class`` cannot be used under mypy strict.
    return type("BuildMonitor", (module.IProgressMonitor,), members)()
