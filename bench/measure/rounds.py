"""Interleaved rounds: every row has its turn in each, in an order that is drawn anew.

Drift of the machine thus falls on all alike, and a round compares rows that ran within seconds of
each other. A round that something disturbed is repeated, up to a maximum number; after that its
turns are kept, each with the marks of all of them. Turns of a repeated round stay in the record.

The number of rounds is given, or decided by a target width. To stop once an interval is narrow
enough favours intervals that are narrow by chance; from 30 rounds on, that is below what simulated
runs show (``tests/bench/test_bench_statistics.py``).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bench.isolation import Isolated, ProcessFailed
from bench.machine.telemetry import Monitor, marks
from bench.measure.camera import Arrivals
from bench.measure.request import Scenario
from bench.record import Frames, Turn
from bench.record.camera import next_fps
from bench.record.timing import CAMERA, counted_turns, speed_ratio
from bench.statistics import relative_width

MOST_CALLS = 2000  # per turn: more samples of calls of microseconds would only fill the record
LEAST_WINDOW_S, LEAST_FRAMES = 1.0, 10
"""Of a window: shorter ones hold too few frames for a rate not to be kept."""
CHECK_EVERY, MOST_TO_WIDTH = 5, 1000
"""Rounds between two looks at a target width, and in all; a record of more is slow to read."""

Turns = dict[str, dict[str, list[Turn]]]  # row → scope → turns, in order


class Interleaved:
    """The rounds of one setting.

    Args:
        timers: by row, each a ``bench.measure.timer.Timer`` in its own process.
        watch: of the machine, during each turn.
        turns: of an earlier part of this run; rounds continue after them. Grows in place.
        reference: the row whose speed others are compared with, for a target width.
    """

    def __init__(
        self,
        timers: Mapping[str, Isolated],
        scenario: Scenario,
        watch: Monitor,
        turns: Turns | None = None,
        reference: str | None = None,
    ) -> None:
        self._timers, self._scenario, self._watch = dict(timers), scenario, watch
        self._reference = reference
        self.turns: Turns = turns if turns is not None else {}
        self.failures: dict[str, str] = {}  # rows that did not finish, and why
        self._a_call: dict[tuple[str, str], float] = {}  # seconds, by row and scope
        lists = [each for scopes in self.turns.values() for each in scopes.values()]
        known = [turn for each in lists for turn in each]
        self._next = 1 + max((turn.round for turn in counted_turns(known)), default=-1)
        self._repeats = max((sum(not turn.counted for turn in each) for each in lists), default=0)
        ended = max((turn.start_s + turn.wall_s for turn in known), default=0.0)
        self._zero = time.perf_counter() - ended

    @property
    def left(self) -> int:
        """Rounds that are surely to be done."""
        return max(0, self._scenario.rounds - self._next)

    def warm_up(self, step: Callable[[], None] = lambda: None) -> None:
        """Bring every row to a steady state, and find out how long a call takes."""
        for name in list(self._timers):
            for scope in self._scenario.scopes:
                seconds = self._call(name, "warm_up", scope, self._scenario.warmup_s)
                if seconds is not None:  # else it failed, or lacks the scope
                    self._a_call[name, scope] = seconds
            for scope in self._scenario.window_scopes if name in self._timers else ():
                self._a_call[name, scope] = self._a_call[name, "host"]
            step()

    def run(self, done: Callable[[], None] = lambda: None) -> None:
        """Do the rounds that are left; ``done`` is called after each that counts."""
        while self._timers and not self._is_over():
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

    def _is_over(self) -> bool:
        """Whether there are enough rounds and, with a target width, it or its bound is reached."""
        if self.left or self._scenario.target_width is None:
            return not self.left
        spent_s = time.perf_counter() - self._zero
        if spent_s >= 60 * self._scenario.max_minutes or self._next >= MOST_TO_WIDTH:
            return True
        looks = (self._next - self._scenario.rounds) % CHECK_EVERY == 0
        return looks and self._widest() <= self._scenario.target_width

    def _widest(self) -> float:
        """The largest relative width of a speed ratio of the rows that still run."""
        bases = self.turns.get(self._reference or "", {})
        ratios = [
            speed_ratio(bases[scope], turns)
            for name, scopes in self.turns.items()
            for scope, turns in scopes.items()
            if name in self._timers and name != self._reference
            if scope in bases and scope in self._scenario.scopes
        ]
        return max((relative_width(ratio) for ratio in ratios if ratio), default=0.0)

    def _round(self, number: int) -> list[tuple[str, str, Turn]]:
        random = np.random.default_rng([self._scenario.seed, number, self._repeats])
        names, scopes = list(self._timers), self._scenario.scopes + self._scenario.window_scopes
        rows = (names[index] for index in random.permutation(len(names)))
        order = [(row, scopes[i]) for row in rows for i in random.permutation(len(scopes))]
        phases = tuple(random.random(self._scenario.cameras).tolist())  # the same for all rows
        found = (
            (row, scope, self._turn(row, scope, number, phases))
            for row, scope in order
            if (row, scope) in self._a_call
        )
        return [(row, scope, turn) for row, scope, turn in found if turn]

    def _turn(self, name: str, scope: str, number: int, phases: tuple[float, ...]) -> Turn | None:
        scenario, seconds, arrivals = self._scenario, self._a_call[name, scope], None
        if scope in scenario.window_scopes:
            arrivals = self._arrivals(name, scope, phases)
        # Before the watch: what is seen is that of the counted calls.
        self._call(name, "settle", "host" if arrivals else scope)
        if name not in self._timers:  # it failed, perhaps in another scope of this round
            return None
        pids = [timer.pid for timer in self._timers.values()]
        self._watch.start(pids)
        start = time.perf_counter()
        if arrivals:
            timed = self._call(name, "serve", arrivals, silent_s=arrivals.frames / arrivals.fps)
        else:
            calls = min(max(1, round(scenario.turn_s / seconds)), MOST_CALLS)
            timed = self._call(name, "turn", scope, calls)
        telemetry = self._watch.stop(timed.cpu_s if timed else 0.0)
        if timed is None:
            return None
        found = marks(telemetry, time.perf_counter() - start)
        began = start - self._zero
        frames = Frames(arrivals.fps, len(phases), timed.dropped) if arrivals else None
        samples = timed.samples_ns
        return Turn(number, began, timed.wall_s, samples, telemetry, found, frames=frames)

    def _arrivals(self, name: str, scope: str, phases: tuple[float, ...]) -> Arrivals:
        """The frames of a window, at the rate that was asked for or that the search has come to."""
        fps = self._scenario.fps
        if scope != CAMERA:
            guess = 1 / (len(phases) * self._a_call[name, scope])
            fps = next_fps(self.turns.get(name, {}).get(scope, ()), guess)
        frames = round(fps * max(self._scenario.turn_s, LEAST_WINDOW_S))
        most = max(LEAST_FRAMES, MOST_CALLS // len(phases))
        return Arrivals(fps, min(max(LEAST_FRAMES, frames), most), phases)

    def _call(self, name: str, method: str, *arguments: Any, silent_s: float = 0.0) -> Any:
        """The answer of a row's timer; None if it failed, and the row is out from then on.

        Args:
            silent_s: what it takes at least, if that is not the time of a turn.
        """
        if name not in self._timers:
            return None
        scenario = self._scenario
        usual = scenario.warmup_s + scenario.turn_s  # without a word
        timeout = scenario.timeout_s + usual + silent_s
        try:
            return self._timers[name].call(method, *arguments, timeout_s=timeout)
        except ProcessFailed as error:
            self.failures[name] = str(error)
            del self._timers[name]
            return None
