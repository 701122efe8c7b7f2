"""Progress of an engine build, and its end by Ctrl-C.

API: ``IProgressMonitor`` (TensorRT 10, 11 and TensorRT-RTX). Its callbacks are called from C++,
where an exception is printed and dropped; so whatever fails in one is kept and raised afterwards.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from dabnet.console import progress_columns
from dabnet.interrupt import Stop, stop_on_signal


class Phases:
    """Bars of a build's phases, those within another below it and indented; silent without any."""

    def __init__(self, bars: Any = None) -> None:
        self._bars = bars
        self._tasks: dict[str, Any] = {}
        self._depths: dict[str, int] = {}

    def start(self, name: str, parent: str | None, steps: int) -> None:
        if self._bars:
            self._depths[name] = depth = self._depths.get(parent, -1) + 1 if parent else 0
            self._tasks[name] = self._bars.add_task("  " * depth + name, total=steps, text="")

    def step(self, name: str, done: int) -> None:
        if self._bars:
            self._bars.update(self._tasks[name], completed=done)

    def finish(self, name: str) -> None:
        """End the phase, also where steps are left."""
        if self._bars:
            self._bars.remove_task(self._tasks.pop(name))


OpenPhases = Callable[[], AbstractContextManager[Phases]]


def no_phases() -> AbstractContextManager[Phases]:
    return nullcontext(Phases())


@contextmanager
def phase_bars() -> Iterator[Phases]:
    with progress_columns("steps") as bars:
        yield Phases(bars)


@contextmanager
def interruptible(tell: Callable[[str], None]) -> Iterator[Stop]:
    """Turn Ctrl-C during the block into a request, and raise KeyboardInterrupt after the block.

    Raised at once it would land in a callback, where the bindings print and drop it. A second
    Ctrl-C ends the process at once, since some versions cannot be asked to stop.
    """
    told = "stops the build; Ctrl-C again ends it at once"
    with stop_on_signal(signal.SIGINT, again=signal.SIG_DFL, tell=lambda: tell(told)) as stop:
        try:
            yield stop
        finally:
            if stop.asked:
                raise KeyboardInterrupt


class KeptErrors:
    """Runs callbacks of TensorRT and keeps the first error, which C++ would drop."""

    def __init__(self) -> None:
        self.first: BaseException | None = None

    def run(self, callback: Callable[[], Any]) -> Any:
        """Return what the callback returns; None where it, or an earlier one, failed."""
        if self.first is None:
            try:
                return callback()
            except BaseException as error:
                self.first = error
        return None

    def reraise(self) -> None:
        if self.first is not None:
            raise self.first


def monitor_handle(module: Any, phases: Phases, stop: Stop, errors: KeptErrors) -> Any:
    """An ``IProgressMonitor``; after Ctrl-C or an error the builder then returns no engine."""

    def step_complete(_: Any, name: str, step: int) -> bool:
        errors.run(lambda: phases.step(name, step + 1))
        return not stop.asked and errors.first is None

    members = {
        "phase_start": lambda _, *phase: errors.run(lambda: phases.start(*phase)),
        "step_complete": step_complete,
        "phase_finish": lambda _, name: errors.run(lambda: phases.finish(name)),
    }
    # The base class is known only at run time, so ``class`` cannot be used under mypy strict.
    return type("BuildMonitor", (module.IProgressMonitor,), members)()
