"""Frames that arrive, on a clock that moves only when a runner works or sleeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.measure import camera, rounds, timer
from bench.measure.camera import Arrivals, Served, serve
from bench.measure.request import Scenario
from bench.measure.rounds import Interleaved
from bench.record import Telemetry, Turn
from bench.record.camera import dropped, energy_per_mask, is_kept, kept_fps, late, missed
from bench.record.timing import counted_turns
from tests.support.fake_clock import MS, Clock, FakeRunner, InProcess, NoWatch, timer_of


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    for module in (camera, rounds, timer):
        monkeypatch.setattr(module, "time", moved.instead_of_time())
    return moved


def served(clock: Clock, arrivals: Arrivals, costs_ms: Sequence[float]) -> Served:
    """With calls that take these times, the last one again and again."""

    def call(number: int) -> None:
        clock.now += round(costs_ms[min(number, len(costs_ms) - 1)] * MS)

    return serve(call, arrivals)


def test_a_frame_that_waits_is_replaced_by_the_next_one(clock: Clock) -> None:
    """10 FPS; the second call ends at 350 ms: of the frames of 200 and 300 ms the older is lost."""
    found = served(clock, Arrivals(10.0, 5, (0.0,)), [30, 250, 30, 30])
    assert found.latencies_ns == (30 * MS, 250 * MS, 80 * MS, 30 * MS)
    assert (found.dropped, found.wall_s) == (1, 0.5)  # five periods, the end of the last idle


def test_a_new_frame_keeps_the_place_of_the_one_it_replaces(clock: Clock) -> None:
    """Two cameras, a quarter of a period apart, and calls of 110 ms."""
    found = served(clock, Arrivals(10.0, 3, (0.5, 0.75)), [110])
    # a0 at 0 → 110; b0 at 25 → 220; a2 (200), which has replaced a1 (100), before b1 (125) → 330;
    # b2 (225), which has replaced b1, → 440.
    assert found.latencies_ns == (110 * MS, 195 * MS, 130 * MS, 215 * MS)
    assert (found.dropped, found.wall_s) == (2, 0.44)


def test_the_times_of_frames_are_fixed_before_the_first_call() -> None:
    times = Arrivals(3.0, 3, (0.9, 0.1)).times_ns()
    period = 10**9 / 3
    expected = [(period * n, 1) for n in range(3)] + [(period * (n + 0.8), 0) for n in range(3)]
    assert times == sorted((round(at), camera) for at, camera in expected)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=30),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4),
)
def test_no_frame_is_lost_served_early_or_waits_while_nobody_works(
    costs_ms: list[int], phases: list[float]
) -> None:
    clock = Clock()
    arrivals = Arrivals(10.0, 8, tuple(phases))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(camera, "time", clock.instead_of_time())
        found = served(clock, arrivals, costs_ms)
    assert len(found.latencies_ns) + found.dropped == 8 * len(phases)
    many = len(found.latencies_ns)
    costs = [costs_ms[min(number, len(costs_ms) - 1)] * MS for number in range(many)]
    assert all(took >= cost for took, cost in zip(found.latencies_ns, costs, strict=True))
    # A place holds one frame: nobody waits longer than the calls of all cameras take.
    longest = (len(phases) + 1) * max(costs) + MS
    assert max(found.latencies_ns) <= longest
    if max(costs_ms) * len(phases) <= 100 / 2:
        assert found.dropped == 0


# --- the rounds -------------------------------------------------------------------------------

SCENARIO = Scenario("camera", scopes=("host",), rounds=30, min_time_s=0.3, warmup_s=0.3)


def endpoints(clock: Clock, **costs_ms: float) -> dict[str, Any]:
    def constant(ms: float) -> Callable[[int, int], float]:
        return lambda call, shown: ms * MS

    made = {name: FakeRunner(clock, constant(ms), [], name) for name, ms in costs_ms.items()}
    return {name: InProcess(timer_of(runner)) for name, runner in made.items()}


def timed(clock: Clock, scenario: Scenario, watch: Any = None, **costs_ms: float) -> rounds.Turns:
    made = Interleaved(endpoints(clock, **costs_ms), scenario, watch or NoWatch())
    made.warm_up()
    made.run()
    assert made.failures == {}
    return made.turns


def rates(turns: Sequence[Turn]) -> list[float]:
    return [turn.frames.fps for turn in counted_turns(turns) if turn.frames]


def test_misses_of_a_row_are_counted_exactly(clock: Clock) -> None:
    """At 25 FPS a call of 60 ms drops one frame of three, and answers all others late but one."""
    turns = timed(clock, replace(SCENARIO, rounds=2, fps=25.0), a=60, b=10)
    for turn in turns["a"]["camera"]:
        assert turn.frames and turn.frames.deadline_ns == 40 * MS
        # Windows of 1 s: calls begin at 0, 60, … ms, the last one with the frame of 960 ms.
        assert (len(turn.samples_ns), turn.frames.dropped) == (17, 8)
        assert turn.samples_ns[:4] == (60 * MS, 80 * MS, 60 * MS, 80 * MS)
        assert late(turn, turn.frames) == 17 and not is_kept(turn, turn.frames)
    lost, all_missed, none = (
        figure(turns[row]["camera"])
        for figure, row in ((dropped, "a"), (missed, "a"), (missed, "b"))
    )
    assert lost and all_missed and none
    assert (lost.value, all_missed.value, none.value) == (16 / 50, 1.0, 0.0)
    assert all_missed.low < 1.0 and none.high > 0.0  # 50 frames are not all frames


def test_all_rows_of_a_round_see_the_same_cameras_and_rounds_see_others(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Arrivals] = []

    def noted(call: Any, arrivals: Arrivals) -> Served:
        seen.append(arrivals)
        return serve(call, arrivals)

    monkeypatch.setattr(timer, "serve", noted)
    turns = timed(clock, replace(SCENARIO, rounds=3, cameras=2), a=5, b=40)
    phases = [arrivals.phases for arrivals in seen]
    by_round = [set(phases[at : at + 4]) for at in range(0, 12, 4)]  # two rows, two scopes
    assert [len(each) for each in by_round] == [1, 1, 1] and len(set(phases)) == 3
    asked = [arrivals for arrivals in seen if arrivals.fps == 30.0 and arrivals.frames == 30]
    assert len(asked) >= 6 and all(len(arrivals.phases) == 2 for arrivals in seen)
    for row in turns.values():
        for turn in row["camera"]:
            assert turn.frames and len(turn.samples_ns) + turn.frames.dropped == 60


@pytest.mark.parametrize(("ms", "guess_ms"), [(10.0, 10.0), (3.7, 37.0), (80.0, 2.0)])
def test_the_search_finds_the_highest_rate(clock: Clock, ms: float, guess_ms: float) -> None:
    """A call of 10 ms keeps up with 100 FPS and not with more, wherever the search began."""
    made = Interleaved(endpoints(clock, a=ms), SCENARIO, NoWatch())
    made.warm_up()
    made._a_call["a", "search"] = guess_ms / 1e3
    made.run()
    found = kept_fps(made.turns["a"]["search"])
    assert found is not None
    # 0.3 %: 10 ms and a hundredth of a backlog are still in time after a window of 100 frames.
    assert 0.975 <= found.value * ms / 1000 <= 1.003
    assert found.low <= 1003 / ms <= 1.01 * found.high
    assert found.high / found.low < 1.06
    assert kept_fps(made.turns["a"]["search"][:8]) is None  # one search has no interval


def test_a_stopped_search_goes_on_as_if_it_had_not_stopped(clock: Clock) -> None:
    class Stop(Exception):
        pass

    def stop() -> None:
        if len(first.turns["a"]["search"]) == 11:
            raise Stop

    whole = rates(timed(clock, SCENARIO, a=12)["a"]["search"])
    first = Interleaved(endpoints(clock, a=12), SCENARIO, NoWatch())
    first.warm_up()
    with pytest.raises(Stop):
        first.run(stop)
    second = Interleaved(endpoints(clock, a=12), SCENARIO, NoWatch(), first.turns)
    second.warm_up()
    second.run()
    assert rates(second.turns["a"]["search"]) == pytest.approx(whole, rel=1e-3)
    assert len(whole) == 30


def test_a_disturbed_window_is_made_again_at_its_rate(clock: Clock) -> None:
    class Watch(NoWatch):
        turns = 0

        def stop(self, own_cpu_s: float) -> Telemetry:
            self.turns += 1
            return Telemetry(foreign_cores=1.5 if self.turns == 7 else 0.0)

    turns = timed(clock, SCENARIO, Watch(), a=12)["a"]["search"]
    (again,) = [n for n, turn in enumerate(turns) if not turn.counted]
    here, there = turns[again].frames, turns[again + 1].frames
    assert here and there and here.fps == there.fps
    assert len(counted_turns(turns)) == 30


def test_energy_is_that_of_the_windows_over_their_masks(clock: Clock) -> None:
    class Watch(NoWatch):
        def stop(self, own_cpu_s: float) -> Telemetry:
            return Telemetry(cpu_energy_j=6.0)

    scenario = replace(SCENARIO, rounds=3)
    turns = timed(clock, scenario, Watch(), a=10)["a"]["camera"]
    found = energy_per_mask(turns, "cpu_energy_j")
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((0.2,) * 3)  # 30 masks of 6 J
    assert energy_per_mask(turns, "gpu_energy_j") is None
    lacking = replace(turns[0], telemetry=Telemetry())
    assert energy_per_mask([lacking, *turns[1:]], "cpu_energy_j") is None
