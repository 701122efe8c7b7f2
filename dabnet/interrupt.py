"""Ending long work at a safe point instead of anywhere."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

EXIT_INTERRUPTED = 130  # 128 + SIGINT
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


_USUAL = (signal.SIG_DFL, signal.default_int_handler)
_AGAIN_S = 0.05


def interrupt_on_signals() -> None:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt as Ctrl-C does: temporary files are removed.

    None of them does so within an import: libraries swallow the exception, or abort. It waits
    until the import ends. A second signal ends the process at once; one that is ignored, as by
    ``nohup``, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) in _USUAL:
            signal.signal(number, _interrupt_once)


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    if number != signal.SIGALRM:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, usual)
    if _imports(frame):
        signal.signal(signal.SIGALRM, _interrupt_once)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
    else:
        raise KeyboardInterrupt


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported where ``frame`` runs."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def end_with_parent() -> None:
    """Let this process be killed when its parent ends, whatever it is doing then (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
