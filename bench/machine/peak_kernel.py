"""A micro-kernel of known work, and the best rate that it reaches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

BYTES = "bytes"
"""Kind of a kernel that moves memory; the others are named by their type of arithmetic."""

_LEAST_REPEATS = 3


@dataclass(frozen=True, slots=True)
class PeakKernel:
    """One micro-kernel.

    Attributes:
        name: what it does, for the log.
        kind: ``BYTES`` (read and written), or the type of its multiply-adds: ``fp32``, ….
        work: bytes or multiply-adds of a call.
        prepare: makes its tensors and returns the call, which returns its seconds. It raises where
            a library or a device cannot do it.
    """

    name: str
    kind: str
    work: float
    prepare: Callable[[], Callable[[], float]]

    def best_rate(self, budget_s: float) -> float:
        """Work a second of the fastest call within a budget of time; one call is made at least."""
        call = self.prepare()
        start = time.perf_counter()
        seconds = call()  # allocates, chooses an algorithm; where it is slow it must do
        repeats = 0
        while (spent := time.perf_counter() - start) < budget_s or repeats < _LEAST_REPEATS:
            if spent + seconds > 2 * budget_s:
                break
            seconds = min(seconds, call())
            repeats += 1
        return self.work / seconds


def by_clock(work: Callable[[], object]) -> Callable[[], float]:
    """A call that returns its seconds, by the clock of the host."""

    def call() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return call
