"""The timer, on a clock that moves only when a runner works: every sample is known exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from bench import timing
from bench.timing import Scenario, measure
from dabnet.errors import InputError
from dabnet.runtime.null_runner import NullRunner
from dabnet.runtime.runner import RunnerInfo, Uint8Array

MS = 1_000_000
SHAPE = (1, 8, 8, 3)
INPUTS = [np.full(SHAPE, value, np.uint8) for value in range(4)]


class Clock:
    """Nanoseconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 0

    def perf_counter_ns(self) -> int:
        return self.now

    def perf_counter(self) -> float:
        return self.now / 1e9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    fake = SimpleNamespace(perf_counter_ns=moved.perf_counter_ns, perf_counter=moved.perf_counter)
    monkeypatch.setattr(timing, "time", fake)
    return moved


class FakeRunner:
    """Takes ``cost(number of the call, input)`` nanoseconds and writes down what is asked of it."""

    def __init__(
        self,
        clock: Clock,
        cost: Callable[[int, int], int],
        log: list[tuple[str, str, int]],
        name: str,
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
        assert self._calls < 10_000, "the timer does not see the time that is spent"
        return self._cost(self._calls, shown)


def constant(cost: int) -> Callable[[int, int], int]:
    return lambda call, shown: cost


@pytest.mark.parametrize("scope", ["host", "device"])
def test_every_sample_is_kept_and_each_is_one_call(clock: Clock, scope: str) -> None:
    log: list[tuple[str, str, int]] = []
    # Each input costs a time of its own, so a sample says which one was run.
    runner = FakeRunner(clock, lambda call, shown: (10 + shown) * MS, log, "a")
    scenario = Scenario(scope, rounds=5, round_seconds=0.23, warmup_seconds=1.0)
    rounds = measure({"a": runner}, INPUTS, scenario)["a"]
    assert len(rounds) == 5
    per_turn = 20  # 0.23 s of calls whose median is 11.5 ms
    for samples in rounds:
        assert samples.dtype == np.int64
        assert samples.tolist() == [(10 + number % 4) * MS for number in range(per_turn)]
    # Nothing else ran but the warm-up (two windows of 4 that agree) and one call before each turn.
    work = [entry for entry in log if entry[1] in ("infer", "launch")]
    assert len(work) == 2 * 4 + 5 * (1 + per_turn)


def test_slow_calls_are_kept(clock: Clock) -> None:
    stalls = {20: 700 * MS, 51: 900 * MS}  # calls of the first turn and of the second
    log: list[tuple[str, str, int]] = []
    runner = FakeRunner(clock, lambda call, shown: stalls.get(call, MS), log, "a")
    scenario = Scenario(rounds=3, round_seconds=0.03)
    samples = np.concatenate(measure({"a": runner}, INPUTS, scenario)["a"])
    assert len(samples) == 90
    assert sorted(samples)[-3:] == [MS, 700 * MS, 900 * MS]


def test_device_scope_stages_once_and_synchronises_each_call(clock: Clock) -> None:
    log: list[tuple[str, str, int]] = []
    runner = FakeRunner(clock, lambda call, shown: (10 + shown) * MS, log, "a")
    measure({"a": runner}, INPUTS, Scenario("device", rounds=2, round_seconds=0.1))
    kinds = [what for _, what, _ in log]
    assert kinds[0] == "stage" and log[0][2] == len(INPUTS)
    assert kinds[1:] == ["launch", "synchronize"] * (len(kinds) // 2)
    assert len(kinds) > 10
    waited = [value for _, what, value in log if what == "synchronize"]
    assert min(waited) >= 10 * MS  # each of them waited for exactly one run
    assert max(waited) <= 13 * MS


def test_inputs_rotate_alike_for_all(clock: Clock) -> None:
    log: list[tuple[str, str, int]] = []
    runners = {name: FakeRunner(clock, constant(10 * MS), log, name) for name in ("a", "b")}
    measure(runners, INPUTS, Scenario(rounds=4, round_seconds=0.08))
    for name in runners:
        shown = [value for runner, _, value in log if runner == name][-4 * 9 :]
        for turn in range(4):
            timed = shown[9 * turn + 1 : 9 * turn + 9]  # the first call of a turn is not timed
            assert timed == [0, 1, 2, 3, 0, 1, 2, 3]


def test_the_order_is_drawn_anew_each_round(clock: Clock) -> None:
    log: list[tuple[str, str, int]] = []
    costs = {"a": 5 * MS, "b": 10 * MS, "c": 100 * MS}
    runners = {name: FakeRunner(clock, constant(cost), log, name) for name, cost in costs.items()}
    ticks: list[int] = []
    scenario = Scenario(rounds=12, round_seconds=0.05)
    rounds = measure(runners, INPUTS, scenario, lambda: ticks.append(clock.now))
    assert {name: len(runs) for name, runs in rounds.items()} == {"a": 12, "b": 12, "c": 12}
    assert [len(rounds[name][0]) for name in "abc"] == [10, 5, 3]  # at least 3 calls a turn
    assert len(ticks) == 36 and ticks == sorted(set(ticks))
    # Two turns in a row of one runner look like one: each is told by the calls it must hold.
    work = [name for name, what, _ in log][-12 * (11 + 6 + 4) :]
    orders = []
    position = 0
    for _ in range(12):
        order = []
        for _ in costs:
            name = work[position]
            length = {"a": 11, "b": 6, "c": 4}[name]
            assert work[position : position + length] == [name] * length
            order.append(name)
            position += length
        assert sorted(order) == ["a", "b", "c"]
        orders.append(tuple(order))
    assert len(set(orders)) >= 4
    assert {order[0] for order in orders} == {"a", "b", "c"}  # nobody is always the first


def test_the_warm_up_waits_for_a_slow_start(clock: Clock) -> None:
    """A backend that compiles in its first calls is timed as it runs afterwards."""
    log: list[tuple[str, str, int]] = []
    runner = FakeRunner(clock, lambda call, _: (200 if call <= 6 else 10) * MS, log, "a")
    rounds = measure({"a": runner}, INPUTS, Scenario(rounds=2, round_seconds=0.1))["a"]
    assert [samples.tolist() for samples in rounds] == [[10 * MS] * 10] * 2


def test_the_warm_up_is_bounded(clock: Clock) -> None:
    """A backend that never settles is timed all the same."""
    log: list[tuple[str, str, int]] = []
    runner = FakeRunner(clock, lambda call, _: MS * 2 ** (call // 4 % 2 * 3), log, "a")
    scenario = Scenario(rounds=2, round_seconds=0.01, warmup_seconds=2.0)
    rounds = measure({"a": runner}, INPUTS, scenario)
    calls_of_warm_up = len(log) - 2 * (1 + len(rounds["a"][0]))
    assert 2000 // 8 <= calls_of_warm_up <= 2000
    assert len(rounds["a"]) == 2


def test_the_harness_can_time_nothing_at_all() -> None:
    """On the real clock, with the backend that does nothing: what is left is the timer's own."""
    scenario = Scenario(rounds=3, round_seconds=1e-4, warmup_seconds=0.1)
    for scope in ("host", "device"):
        runner = NullRunner(SHAPE)
        rounds = measure({"null": runner}, INPUTS, Scenario(scope, 3, 1e-4, 0.1))["null"]
        assert len(rounds) == scenario.rounds
        assert all(len(samples) >= 3 and (samples >= 0).all() for samples in rounds)
    assert not runner.infer(INPUTS[0]).any()
    with pytest.raises(InputError, match=r"uint8 of shape \(1, 8, 8, 3\)"):
        runner.infer(np.zeros((1, 8, 16, 3), np.uint8))


@pytest.mark.parametrize(
    ("scenario", "expected"),
    [({"scope": "gpu"}, "one of host, device"), ({"rounds": 1}, "at least 2")],
)
def test_an_impossible_scenario(scenario: dict[str, object], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        Scenario(**scenario)  # type: ignore[arg-type]
