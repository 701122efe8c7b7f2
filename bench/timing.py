"""The timer. It knows runners by their protocol: no model, no format, no backend.

Backends are measured in interleaved rounds of one process, in an order drawn anew each round, so
that drift of the machine falls on all alike. Every sample is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dabnet.errors import InputError
from dabnet.runtime.runner import SCOPES, Runner, Uint8Array

Rounds = list[NDArray[np.int64]]
"""Latencies in nanoseconds, one array a round."""

WARMUP_WINDOW = 4
WARMUP_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is timed.

    Attributes:
        scope: ``host`` or ``device``; see ``dabnet.runtime.runner``.
        rounds: how often each backend has its turn.
        round_seconds: least time of a turn; it holds at least 3 calls.
        warmup_seconds: bound on the warm-up of each backend.
        batch: frames a call.
    """

    scope: str = "host"
    rounds: int = 10
    round_seconds: float = 1.0
    warmup_seconds: float = 5.0
    batch: int = 1

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise InputError(f"scope {self.scope!r}", "one of " + ", ".join(SCOPES))
        if self.rounds < 2:
            raise InputError(f"{self.rounds} rounds", "at least 2: one round has no interval")


def measure(
    runners: Mapping[str, Runner],
    inputs: Sequence[Uint8Array],
    scenario: Scenario,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, Rounds]:
    """Time every runner on the same inputs; ``progress`` is called after each turn.

    Args:
        runners: by name.
        inputs: batches uint8 (N, H, W, 3), taken in turn; several, so that no cache of a result
            can flatter a backend.
    """
    calls = {name: _call(runner, inputs, scenario.scope) for name, runner in runners.items()}
    per_turn = {}
    for name, call in calls.items():
        typical = _warm_up(call, scenario.warmup_seconds)
        per_turn[name] = max(3, round(scenario.round_seconds / typical))
    rounds: dict[str, Rounds] = {name: [] for name in runners}
    rng = np.random.default_rng(0)
    names = list(runners)
    for _ in range(scenario.rounds):
        for index in rng.permutation(len(names)):
            name = names[index]
            # One call that is not counted: the caches and threads of the one before settle. It
            # takes the last input, so that no call sees the input of the call before.
            calls[name](-1)
            rounds[name].append(_timed(calls[name], per_turn[name]))
            progress()
    return rounds


def _call(runner: Runner, inputs: Sequence[Uint8Array], scope: str) -> Callable[[int], None]:
    """Return what one sample times: a function of the number of the call."""
    count = len(inputs)
    if scope == "host":

        def host(number: int) -> None:
            runner.infer(inputs[number % count])

        return host
    runner.stage(inputs)

    def device(number: int) -> None:
        runner.launch(number % count)
        runner.synchronize()

    return device


def _timed(call: Callable[[int], None], times: int) -> NDArray[np.int64]:
    samples = np.empty(times, np.int64)
    for number in range(times):
        start = time.perf_counter_ns()
        call(number)
        samples[number] = time.perf_counter_ns() - start
    return samples


def _warm_up(call: Callable[[int], None], seconds: float) -> float:
    """Call until two windows of calls agree within 5 %, or time is up; return seconds a call."""
    deadline = time.perf_counter() + seconds
    before = float("inf")
    while True:
        median = float(np.median(_timed(call, WARMUP_WINDOW))) / 1e9
        settled = abs(before - median) <= WARMUP_TOLERANCE * median
        if settled or time.perf_counter() > deadline:
            return max(median, 1e-9)
        before = median
