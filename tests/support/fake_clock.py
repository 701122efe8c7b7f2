"""A clock that moves only when a runner works, so that every sample is known exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from bench.measure.timer import Timer
from bench.record import Telemetry
from dabnet.runtime.runner import RunnerInfo, Uint8Array

MS = 1_000_000
SHAPE = (1, 8, 8, 3)
INPUTS = [np.full(SHAPE, value, np.uint8) for value in range(4)]

Log = list[tuple[str, str, int]]


class Clock:
    """Nanoseconds, moved by hand; looking at it takes 1 µs, or a bounded loop would never end."""

    def __init__(self) -> None:
        self.now = 0

    def perf_counter_ns(self) -> int:
        return self.now

    def perf_counter(self) -> float:
        self.now += 1_000
        return self.now / 1e9

    def sleep(self, seconds: float) -> None:
        self.now += round(1e9 * seconds)

    def instead_of_time(self) -> Any:
        return SimpleNamespace(
            perf_counter_ns=self.perf_counter_ns, perf_counter=self.perf_counter, sleep=self.sleep
        )


class FakeRunner:
    """Takes ``cost(number of the call, input)`` nanoseconds and writes down what is asked of it."""

    def __init__(
        self, clock: Clock, cost: Callable[[int, int], float], log: Log, name: str = "a"
    ) -> None:
        self._clock, self._cost, self._log, self._name = clock, cost, log, name
        self._staged: list[int] = []
        self._pending = 0
        self._calls = 0

    @property
    def info(self) -> RunnerInfo:
        return RunnerInfo("fake", "", "none", "none", SHAPE)

    def infer(self, images: Uint8Array) -> Uint8Array:
        self._note("infer", int(images[0, 0, 0, 0]))
        self._clock.now += self._work(int(images[0, 0, 0, 0]))
        return np.zeros(SHAPE[:3], np.uint8)

    def stage(self, batches: Sequence[Uint8Array]) -> None:
        self._note("stage", len(batches))
        self._clock.now += 10**9  # a copy of a second, which no sample may hold
        self._staged = [int(batch[0, 0, 0, 0]) for batch in batches]

    def launch(self, index: int) -> None:
        self._note("launch", self._staged[index])
        self._pending += self._work(self._staged[index])  # asynchronous: the clock stands still

    def synchronize(self) -> None:
        self._note("synchronize", self._pending)
        self._clock.now += self._pending
        self._pending = 0

    def close(self) -> None:
        raise AssertionError("the timer owns no runner")

    def _note(self, what: str, value: int) -> None:
        self._log.append((self._name, what, value))

    def _work(self, shown: int) -> int:
        self._calls += 1
        assert self._calls < 100_000, "the timer does not see the time that is spent"
        return round(self._cost(self._calls, shown))


def timer_of(runner: object, streams: int = 1) -> Timer:
    """A timer of this process."""
    recipe: Any = SimpleNamespace(opened=lambda: runner, artifact=Path())
    return Timer(recipe, INPUTS, streams)


class InProcess:
    """A timer of this process where the rounds expect one of another."""

    pid = 0

    def __init__(self, timer: object) -> None:
        self._timer = timer

    def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        return getattr(self._timer, method)(*arguments)


class NoWatch:
    """Looks at nothing."""

    def start(self, own_pids: Any) -> None:
        pass

    def stop(self, own_cpu_s: float) -> Telemetry:
        return Telemetry()
