"""The time until one core sees what another one wrote, which tells whether they share a cache.

Cores of one complex share their last cache; others talk through the fabric between complexes or
sockets, several times as slowly, and operators that hand tensors from thread to thread feel it. A
virtual machine's two cores may be the one or the other, and change while it runs.
"""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections.abc import Sequence
from statistics import median

from bench.machine.telemetry import Monitor
from bench.record import Telemetry, Turn

APART_NS = 200.0
"""A way took Python's loops 110 to 150 ns in a shared cache; else the cores alone take longer."""

EXCHANGES, BATCHES = 2000, 5
_LINE = 256  # bytes between the two flags: lines of their own
_MOST_SECONDS = 5


def core_latency_ns() -> float | None:
    """Least mean time of one way between the first two cores of this process, with the loop's own.

    None where a process cannot be bound to a core, or has only one, or the other does not answer.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        return None
    with mmap.mmap(-1, 2 * _LINE) as flags:
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(_MOST_SECONDS)  # should the other one be gone
                os.sched_setaffinity(0, {cores[1]})
                _answer(flags)
            finally:  # not back into the caller, whatever happens
                os._exit(0)
        try:
            os.sched_setaffinity(0, {cores[0]})
            return min(_batch(flags, start * EXCHANGES) for start in range(BATCHES))
        except TimeoutError:
            return None
        finally:
            os.sched_setaffinity(0, set(cores))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _answer(flags: mmap.mmap) -> None:
    for number in range(EXCHANGES * BATCHES):
        value = 1 + number % 100
        while flags[0] != value:
            pass
        flags[_LINE] = value


def _batch(flags: mmap.mmap, first: int) -> float:
    """Nanoseconds of one way, on average over a batch of exchanges."""
    start = time.perf_counter()
    for number in range(first, first + EXCHANGES):
        value = 1 + number % 100
        flags[0] = value
        while flags[_LINE] != value:
            if time.perf_counter() - start > _MOST_SECONDS:
                raise TimeoutError("the other core does not answer")
    return (time.perf_counter() - start) / EXCHANGES / 2 * 1e9


class CoreWatch(Monitor):
    """Also measures the latency between cores before and after each turn.

    Attributes:
        latencies: the larger of both, in ns, turn by turn; None where it could not be measured.
    """

    def __init__(self) -> None:
        super().__init__(None)
        self.latencies: list[float | None] = []
        self._before: float | None = None

    def start(self, own_pids: Sequence[int]) -> None:
        self._before = core_latency_ns()
        super().start(own_pids)

    def stop(self, own_cpu_s: float) -> Telemetry:
        telemetry = super().stop(own_cpu_s)
        both = [ns for ns in (self._before, core_latency_ns()) if ns is not None]
        self.latencies.append(max(both) if len(both) == 2 else None)
        return telemetry


def rounds_by_cores(
    turns: dict[str, list[Turn]], latencies: Sequence[float | None]
) -> dict[str, tuple[float, set[int]]]:
    """Split the rounds that count by where the cores were during all of their turns.

    Args:
        turns: of every row, those of repeated rounds too.
        latencies: of each turn, in the order in which they started.

    Returns:
        ``shared`` and ``apart``, each with its median latency in ns and the numbers of its rounds.
        A round in which the cores moved, or of which a latency is missing, is in neither.
    """
    every = sorted((turn for own in turns.values() for turn in own), key=lambda turn: turn.start_s)
    measured: dict[int, list[float | None]] = {}
    for turn, latency in zip(every, latencies, strict=True):
        if turn.counted:
            measured.setdefault(turn.round, []).append(latency)
    of_round = {n: [ns for ns in own if ns is not None] for n, own in measured.items()}
    of_round = {n: own for n, own in of_round.items() if len(own) == len(measured[n])}
    groups = {
        "shared": {n: own for n, own in of_round.items() if max(own) < APART_NS},
        "apart": {n: own for n, own in of_round.items() if min(own) >= APART_NS},
    }
    return {
        name: (median(latency for own in rounds.values() for latency in own), set(rounds))
        for name, rounds in groups.items()
        if rounds
    }
