"""Interleaved rounds: order, repeats, failures and going on, on a clock moved by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.isolation import ProcessFailed
from bench.measure import rounds, timer
from bench.measure.request import Scenario
from bench.measure.rounds import Interleaved
from bench.record import Telemetry
from bench.record.timing import speed_ratio
from bench.statistics import relative_width
from dabnet.errors import InputError
from tests.support.fake_clock import MS, Clock, FakeRunner, InProcess, Log, NoWatch, timer_of

QUICK = Scenario(scopes=("host",), rounds=12, min_time_s=0.6, warmup_s=0.3)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    for module in (timer, rounds):
        monkeypatch.setattr(module, "time", moved.instead_of_time())
    return moved


def endpoints(clock: Clock, log: Log, **costs_ms: float) -> dict[str, InProcess]:
    def constant(ms: float) -> Callable[[int, int], float]:
        return lambda call, shown: ms * MS

    return {
        name: InProcess(timer_of(FakeRunner(clock, constant(ms), log, name)))
        for name, ms in costs_ms.items()
    }


class Scripted(NoWatch):
    """Says of each turn, by its number, what was seen."""

    def __init__(self, seen: Callable[[int], Telemetry]) -> None:
        self._seen, self.turns = seen, 0

    def stop(self, own_cpu_s: float) -> Telemetry:
        self.turns += 1
        return self._seen(self.turns - 1)


def test_every_row_has_its_turn_in_each_round_in_an_order_drawn_anew(clock: Clock) -> None:
    log: Log = []
    interleaved = Interleaved(endpoints(clock, log, a=25, b=10, c=100), QUICK, NoWatch())
    interleaved.warm_up()
    log.clear()
    done: list[int] = []
    interleaved.run(lambda: done.append(clock.now))
    assert len(done) == 12 and done == sorted(set(done))
    calls = {"a": 3, "b": 5, "c": 3}  # of 0.05 s, and at least 3
    for name, count in calls.items():
        turns = interleaved.turns[name]["host"]
        assert [turn.round for turn in turns] == list(range(12))
        assert {len(turn.samples_ns) for turn in turns} == {count}
    starts = sorted((t.start_s, n) for n in calls for t in interleaved.turns[n]["host"])
    orders = [tuple(name for _, name in starts[at : at + 3]) for at in range(0, 36, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(orders)) >= 4  # of 6


def test_the_watch_sees_the_counted_calls_alone(clock: Clock) -> None:
    """Else its energy per frame would be too high by the calls that let a row settle."""
    log: Log = []

    class Counting(NoWatch):
        def start(self, own_pids: object) -> None:
            self._before = len(log)

        def stop(self, own_cpu_s: float) -> Telemetry:
            return Telemetry(cpu_energy_j=float(len(log) - self._before))

    interleaved = Interleaved(endpoints(clock, log, a=5, b=10), QUICK, Counting())
    interleaved.warm_up()
    interleaved.run()
    for scopes in interleaved.turns.values():
        for turn in scopes["host"]:
            assert turn.telemetry.cpu_energy_j == len(turn.samples_ns)


def test_both_scopes_of_a_row_are_timed_in_the_same_round(clock: Clock) -> None:
    scenario = Scenario(rounds=3, min_time_s=0.3, warmup_s=0.3)
    interleaved = Interleaved(endpoints(clock, [], a=25, b=10), scenario, NoWatch())
    interleaved.warm_up()
    interleaved.run()
    for scopes in interleaved.turns.values():
        assert set(scopes) == {"host", "device"}
        assert [[t.round for t in turns] for turns in scopes.values()] == [[0, 1, 2]] * 2


def test_every_row_of_a_disturbed_round_that_counts_is_marked(clock: Clock) -> None:
    disturbed = Telemetry(foreign_cores=1.5)
    watch = Scripted(lambda turn: disturbed if turn == 3 else Telemetry(foreign_cores=0.0))
    scenario = replace(QUICK, most_repeats=0)
    interleaved = Interleaved(endpoints(clock, [], a=25, b=10, c=10), scenario, watch)
    interleaved.warm_up()
    interleaved.run()
    for turns in (scopes["host"] for scopes in interleaved.turns.values()):
        assert [turn.round for turn in turns if turn.marks] == [1]
        assert turns[1].marks == ("disturbed",) and turns[1].counted
    seen = [scopes["host"][1].telemetry.foreign_cores for scopes in interleaved.turns.values()]
    assert sorted(map(float, filter(None, seen))) == [1.5]  # what was seen of each stays its own


def test_a_disturbed_round_is_repeated_and_kept_apart(clock: Clock) -> None:
    disturbed = Telemetry(foreign_cores=1.5)
    watch = Scripted(lambda turn: disturbed if turn == 3 else Telemetry(foreign_cores=0.0))
    interleaved = Interleaved(endpoints(clock, [], a=25, b=10), QUICK, watch)
    interleaved.warm_up()
    interleaved.run()
    for turns in (scopes["host"] for scopes in interleaved.turns.values()):
        assert [turn.round for turn in turns] == [0, 1, *range(1, 12)]
        assert [turn.counted for turn in turns] == [True, False, *[True] * 11]
    marked = [t for s in interleaved.turns.values() for t in s["host"] if t.marks]
    assert [(t.marks, t.counted) for t in marked] == [(("disturbed",), False)]


def test_repeats_are_bounded_and_then_marked(clock: Clock) -> None:
    watch = Scripted(lambda turn: Telemetry(foreign_cores=1.5))
    scenario = Scenario(scopes=("host",), rounds=4, min_time_s=0.2, warmup_s=0.3, most_repeats=2)
    interleaved = Interleaved(endpoints(clock, [], a=25), scenario, watch)
    interleaved.warm_up()
    interleaved.run()
    turns = interleaved.turns["a"]["host"]
    assert [turn.counted for turn in turns] == [False, False, True, True, True, True]
    assert {turn.marks for turn in turns} == {("disturbed",)}


class Failing(InProcess):
    """Answers so many calls of one method, and then its process is gone."""

    def __init__(self, timer: object, method: str, answers: int) -> None:
        super().__init__(timer)
        self._method, self._left = method, answers

    def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        if method == self._method:
            self._left -= 1
            if self._left < 0:
                raise ProcessFailed("its process ended")
        return super().call(method, *arguments)


@pytest.mark.parametrize(("method", "answers", "rounds_of_a"), [("warm_up", 0, 0), ("turn", 5, 5)])
def test_a_row_that_fails_leaves_and_the_others_go_on(
    clock: Clock, method: str, answers: int, rounds_of_a: int
) -> None:
    timers: dict[str, Any] = dict(endpoints(clock, [], b=10, c=10))
    runner = FakeRunner(clock, lambda call, shown: 25 * MS, [])
    timers["a"] = Failing(timer_of(runner), method, answers)
    interleaved = Interleaved(timers, QUICK, NoWatch())
    interleaved.warm_up()
    interleaved.run()
    assert interleaved.failures == {"a": "its process ended"}
    assert len(interleaved.turns.get("a", {}).get("host", [])) == rounds_of_a
    assert {len(interleaved.turns[name]["host"]) for name in "bc"} == {12}


def test_a_stopped_run_goes_on(clock: Clock) -> None:
    class Stop(Exception):
        pass

    def stop() -> None:
        if len(first.turns["a"]["host"]) == 5:
            raise Stop

    first = Interleaved(endpoints(clock, [], a=25, b=10), QUICK, NoWatch())
    first.warm_up()
    with pytest.raises(Stop):
        first.run(stop)
    second = Interleaved(endpoints(clock, [], a=25, b=10), QUICK, NoWatch(), first.turns)
    assert second.left == 7
    second.warm_up()
    second.run()
    for scopes in second.turns.values():
        assert [turn.round for turn in scopes["host"]] == list(range(12))
        starts = [turn.start_s for turn in scopes["host"]]
        assert starts == sorted(starts)
    assert Interleaved({}, QUICK, NoWatch(), second.turns).left == 0


# --- until an interval is narrow --------------------------------------------------------------


def until_narrow(clock: Clock, spread: float, **changes: Any) -> tuple[list[float], float]:
    """Widths of the ratio of ``a`` and ``b`` after each round from the second on; seconds of all.

    Turns of ``b`` (three calls, and one before) have levels of their own.
    """
    levels = np.random.default_rng(0).lognormal(0, spread, 10_000)
    runner = FakeRunner(clock, lambda call, _: 20 * MS * levels[call // 4], [])
    timers: dict[str, Any] = {**endpoints(clock, [], a=10), "b": InProcess(timer_of(runner))}
    scenario = replace(QUICK, min_time_s=0.12, target_width=0.1, **changes)
    start = clock.now
    made = Interleaved(timers, scenario, NoWatch(), reference="a")
    made.warm_up()
    made.run()
    theirs, ours = (made.turns[name]["host"] for name in "ab")
    ratios = [speed_ratio(theirs[:n], ours[:n]) for n in range(2, len(ours) + 1)]
    return [relative_width(ratio) for ratio in ratios if ratio], (clock.now - start) / 1e9


def test_rounds_end_at_the_first_look_at_a_narrow_ratio(clock: Clock) -> None:
    widths, _ = until_narrow(clock, spread=0.15)
    looks = widths[10::5]  # after 12 rounds and every fifth further one
    assert len(looks) > 2 and (len(widths) + 1 - 12) % 5 == 0
    assert [width <= 0.1 for width in looks] == [*[False] * (len(looks) - 1), True]


def test_a_narrow_ratio_ends_no_run_before_its_rounds(clock: Clock) -> None:
    widths, _ = until_narrow(clock, spread=0.0)
    assert len(widths) + 1 == 12 and max(widths) < 0.001


def test_time_bounds_the_rounds_but_the_least_number(clock: Clock) -> None:
    widths, seconds = until_narrow(clock, spread=0.3, max_minutes=0.05)
    assert len(widths) + 1 > 12 and widths[-1] > 0.1
    assert 3.0 <= seconds <= 3.3  # the round in which it ends is done
    widths, _ = until_narrow(clock, spread=0.3, max_minutes=0.001)
    assert len(widths) + 1 == 12


def test_without_a_reference_no_ratio_is_waited_for(clock: Clock) -> None:
    scenario = replace(QUICK, target_width=0.001)
    made = Interleaved(endpoints(clock, [], b=10, c=20), scenario, NoWatch(), reference="a")
    made.warm_up()
    made.run()
    assert len(made.turns["b"]["host"]) == 12


@pytest.mark.parametrize(
    ("scenario", "expected"),
    [
        (
            {"rounds": 9, "target_width": 0.02},
            "--rounds 9 with --target-width; expected at least 10",
        ),
        ({"name": "camera", "scopes": ("device",)}, "without host"),
        ({"scopes": ("gpu",)}, "one of host, device"),
        ({"rounds": 1}, "at least 2"),
        ({"name": "burst"}, "one of latency, throughput"),
    ],
)
def test_an_impossible_scenario(scenario: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        Scenario(**scenario)
