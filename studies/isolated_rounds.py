"""Rows timed as those of dabnet-bench are: each in a process of its own, in interleaved rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.isolation import Isolated, ProcessFailed
from bench.machine.telemetry import Monitor
from bench.measure.request import Scenario
from bench.measure.rounds import Interleaved
from bench.record import Turn

Service = tuple[Callable[..., object], tuple[Any, ...]]
"""What is made in the process, and of what: a ``bench.measure.timer.Timer``, or what answers as one."""


@contextmanager
def opened(
    services: Mapping[str, Service], folder: Path, step: Callable[[], None] = lambda: None
) -> Iterator[tuple[dict[str, Isolated], dict[str, str]]]:
    """All services, each in a process whose log is in ``folder``; and why others do not start."""
    with ExitStack() as stack:
        timers, reasons = {}, {}
        for name, service in services.items():
            log = folder / f"{name.replace(' ', '-')}.log"
            try:
                timers[name] = stack.enter_context(Isolated(name, *service, log))
            except ProcessFailed as error:
                reasons[name] = str(error)
            step()
        yield timers, reasons


def timed(
    timers: Mapping[str, Isolated],
    scenario: Scenario,
    step: Callable[[], None] = lambda: None,
    watch: Monitor | None = None,
) -> dict[str, list[Turn]]:
    """The turns of each in the scenario's one scope, those of repeated rounds too.

    ``watch`` looks at the machine during each turn; a plain ``Monitor`` by default.

    Raises:
        ProcessFailed: one of them did not come to its end.
    """
    rounds = Interleaved(timers, scenario, watch or Monitor(None))
    rounds.warm_up()
    rounds.run(step)
    for name, reason in rounds.failures.items():
        raise ProcessFailed(f"{name}: {reason}")
    (scope,) = scenario.scopes
    return {name: scopes[scope] for name, scopes in rounds.turns.items()}


def disturbed(turns: Mapping[str, list[Turn]]) -> int:
    """How many of the turns that count were disturbed by other processes, repeats and all."""
    return sum(bool(turn.marks) for own in turns.values() for turn in own if turn.counted)
