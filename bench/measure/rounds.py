"""Interleaved rounds: every row has its turn in each, in an order that is drawn anew.

Drift of the machine thus falls on all alike, and a round compares rows that ran within seconds of
each other. A round that something disturbed is repeated, up to a maximum number; after that its
turns are kept, each with the marks of all of them. Turns of a repeated round stay in the record.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bench.isolation import Isolated, ProcessFailed
from bench.machine.telemetry import Monitor, marks
from bench.measure.request import Scenario
from bench.record import Turn
from bench.record.timing import counted_turns

MOST_CALLS = 2000  # per turn: more samples of calls of microseconds would only fill the record

Turns = dict[str, dict[str, list[Turn]]]  # row → scope → turns, in order


class Interleaved:
    """The rounds of one setting.

    Args:
        timers: by row, each a ``bench.measure.timer.Timer`` in its own process.
        watch: of the machine, during each turn.
        turns: of an earlier part of this run; rounds continue after them. Grows in place.
    """

    def __init__(
        self,
        timers: Mapping[str, Isolated],
        scenario: Scenario,
        watch: Monitor,
        turns: Turns | None = None,
    ) -> None:
        self._timers, self._scenario, self._watch = dict(timers), scenario, watch
        self.turns: Turns = turns if turns is not None else {}
        self.failures: dict[str, str] = {}  # rows that did not finish, and why
        self._per_turn: dict[tuple[str, str], int] = {}
        lists = [each for scopes in self.turns.values() for each in scopes.values()]
        known = [turn for each in lists for turn in each]
        self._next = 1 + max((turn.round for turn in counted_turns(known)), default=-1)
        self._repeats = max((sum(not turn.counted for turn in each) for each in lists), default=0)
        ended = max((turn.start_s + turn.wall_s for turn in known), default=0.0)
        self._zero = time.perf_counter() - ended

    @property
    def left(self) -> int:
        return max(0, self._scenario.rounds - self._next)

    def warm_up(self, step: Callable[[], None] = lambda: None) -> None:
        """Bring every row to a steady state, and find out how many calls a turn holds."""
        for name in list(self._timers):
            for scope in self._scenario.scopes:
                seconds = self._call(name, "warm_up", scope, self._scenario.warmup_s)
                if seconds is not None:  # else it failed, or lacks the scope
                    calls = round(self._scenario.turn_s / seconds)
                    self._per_turn[name, scope] = min(max(1, calls), MOST_CALLS)
            step()

    def run(self, done: Callable[[], None] = lambda: None) -> None:
        """Do the rounds that are left; ``done`` is called after each that counts."""
        while self.left and self._timers:
            found = self._round(self._next)
            shared = {mark for _, _, turn in found for mark in turn.marks}
            repeat = bool(shared) and self._repeats < self._scenario.most_repeats
            for name, scope, turn in found:
                # Rows are compared within a round: what slowed one down is in the ratio of all.
                marked = turn.marks if repeat else tuple(sorted(shared))
                kept = self.turns.setdefault(name, {}).setdefault(scope, [])
                kept.append(dataclasses.replace(turn, marks=marked, counted=not repeat))
            self._repeats += repeat
            if not repeat:
                self._next += 1
                done()

    def _round(self, number: int) -> list[tuple[str, str, Turn]]:
        random = np.random.default_rng([self._scenario.seed, number, self._repeats])
        names, scopes = list(self._timers), self._scenario.scopes
        rows = (names[index] for index in random.permutation(len(names)))
        order = ((row, scopes[i]) for row in rows for i in random.permutation(len(scopes)))
        found = (
            (row, scope, self._turn(row, scope, number))
            for row, scope in order
            if (row, scope) in self._per_turn
        )
        return [(row, scope, turn) for row, scope, turn in found if turn]

    def _turn(self, name: str, scope: str, number: int) -> Turn | None:
        if name not in self._timers:  # it failed in another scope of this round
            return None
        pids = [timer.pid for timer in self._timers.values()]
        self._watch.start(pids)
        start = time.perf_counter()
        timed = self._call(name, "turn", scope, self._per_turn[name, scope])
        telemetry = self._watch.stop(timed.cpu_s if timed else 0.0)
        if timed is None:
            return None
        found = marks(telemetry, time.perf_counter() - start)
        began = start - self._zero
        return Turn(number, began, timed.wall_s, timed.samples_ns, telemetry, found)

    def _call(self, name: str, method: str, *arguments: Any) -> Any:
        """The answer of a row's timer; None if it failed, and the row is out from then on."""
        if name not in self._timers:
            return None
        scenario = self._scenario
        timeout = scenario.timeout_s + scenario.warmup_s + scenario.turn_s  # they say nothing
        try:
            return self._timers[name].call(method, *arguments, timeout_s=timeout)
        except ProcessFailed as error:
            self.failures[name] = str(error)
            del self._timers[name]
            return None
