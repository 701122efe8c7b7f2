"""Ending long work at a safe point instead of anywhere."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


@dataclass(slots=True)
class Stop:
    """Whether the user asked to stop; long work looks at it between its steps."""

    asked: bool = False


@contextmanager
def stop_on_signal(
    *signals: signal.Signals, again: Any = None, tell: Callable[[], None] = lambda: None
) -> Iterator[Stop]:
    """Let the first signal set ``asked``, and the second one act as ``again`` says.

    Outside the main thread, where Python takes no signals, nothing is changed.

    Args:
        signals: which; SIGINT and SIGTERM where none is named.
        again: a handler as ``signal.signal`` takes it; None keeps the one from before the block.
        tell: called at the first signal.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: dict[int, Any] = {
        number: signal.getsignal(number) for number in signals or (signal.SIGINT, signal.SIGTERM)
    }

    def ask(number: int, frame: object) -> None:
        stop.asked = True
        signal.signal(number, before[number] if again is None else again)
        tell()

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt_on_signals() -> None:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, so that temporary files are removed.

    A second one ends the process at once; one that is ignored, as by ``nohup``, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt_once)


def _interrupt_once(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt


def end_with_parent() -> None:
    """Let this process be killed when its parent ends, whatever it is doing then (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
