"""Ending long work at a safe point instead of anywhere."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Stop:
    """Whether the user asked to stop; long loops look at it between their steps."""

    asked: bool = False


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Let the first SIGINT or SIGTERM set ``asked``; the second one acts as it always did."""
    stop = Stop()
    numbers = (int(signal.SIGINT), int(signal.SIGTERM))
    previous: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}

    def ask(number: int, frame: object) -> None:
        stop.asked = True
        signal.signal(number, previous[number])

    for number in numbers:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
