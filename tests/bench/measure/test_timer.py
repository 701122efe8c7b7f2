"""The timer of one row, on a clock that moves only when a runner works, and on the real one."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bench.backends.base import Recipe
from bench.measure import timer
from bench.measure.timer import Timer
from dabnet.errors import BackendUnavailable
from dabnet.runtime.runner import LayerTime, NullRunner, RunnerInfo, Uint8Array
from tests.support.fake_clock import INPUTS, MS, SHAPE, Clock, FakeRunner, Log, timer_of
from tests.support.processes import run_python


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    monkeypatch.setattr(timer, "time", moved.instead_of_time())
    return moved


@pytest.mark.parametrize("scope", ["host", "device"])
def test_every_sample_is_kept_and_each_is_one_call(clock: Clock, scope: str) -> None:
    log: Log = []
    # Each input costs a time of its own, so a sample says which one was run.
    timed = timer_of(FakeRunner(clock, lambda call, shown: (30 + shown) * MS, log))
    timed.warm_up(scope, 1.0)
    log.clear()
    timed.settle(scope)
    turn = timed.turn(scope, 10)
    assert turn.samples_ns == tuple((30 + number % 4) * MS for number in range(10))
    assert turn.wall_s == pytest.approx(sum(turn.samples_ns) / 1e9, abs=1e-4)
    work = [value for _, what, value in log if what in ("infer", "launch")]
    assert work == [3, *(number % 4 for number in range(10))]  # one call that is not counted


def test_slow_calls_are_kept(clock: Clock) -> None:
    log: Log = []
    stalls: dict[int, int] = {}
    timed = timer_of(FakeRunner(clock, lambda call, shown: stalls.get(call, MS), log))
    timed.warm_up("host", 0.05)
    stalls |= {len(log) + 30: 700 * MS, len(log) + 50: 900 * MS}
    assert sorted(timed.turn("host", 60).samples_ns)[-3:] == [MS, 700 * MS, 900 * MS]


def test_device_scope_stages_once_and_synchronises_each_call(clock: Clock) -> None:
    log: Log = []
    timed = timer_of(FakeRunner(clock, lambda call, shown: (10 + shown) * MS, log))
    log.clear()  # what opening it took
    timed.warm_up("device", 1.0)
    timed.turn("device", 20)
    kinds = [what for _, what, _ in log]
    assert kinds[0] == "stage" and log[0][2] == len(INPUTS)
    assert kinds[1:] == ["launch", "synchronize"] * (len(kinds) // 2)
    waited = [value for _, what, value in log if what == "synchronize"]
    assert min(waited) >= 10 * MS and max(waited) <= 13 * MS  # each waited for exactly one run


def test_short_calls_settle_for_a_while_before_they_count(clock: Clock) -> None:
    log: Log = []
    timed = timer_of(FakeRunner(clock, lambda call, shown: 0.5 * MS, log))
    timed.warm_up("host", 0.3)
    log.clear()
    timed.settle("host")
    assert len(timed.turn("host", 50).samples_ns) == 50
    assert len(log) - 50 == pytest.approx(40, abs=2)  # 20 ms of them
    assert log[-51][2] == 3  # the last of them had another input than the first that counts


def test_the_warm_up_waits_for_a_slow_start(clock: Clock) -> None:
    """A backend that compiles in its first calls is timed as it runs afterwards."""
    timed = timer_of(FakeRunner(clock, lambda call, _: (200 if call <= 8 else 10) * MS, []))
    assert timed.warm_up("host", 20.0) == pytest.approx(0.010, rel=0.01)
    assert timed.turn("host", 5).samples_ns == (10 * MS,) * 5


def test_the_warm_up_is_bounded(clock: Clock) -> None:
    """A backend that never settles is timed all the same."""
    timed = timer_of(FakeRunner(clock, lambda call, _: MS * 1.01**call, []))
    start = clock.now
    timed.warm_up("host", 2.0)
    assert 2.0 <= (clock.now - start) / 1e9 <= 3.0


def test_opening_is_timed_apart_from_the_first_call(clock: Clock) -> None:
    opened = timer_of(FakeRunner(clock, lambda call, _: 70 * MS, [])).opened()
    assert opened.first_inference_s == pytest.approx(0.070, abs=1e-4)
    assert opened.load_s < 0.001
    assert opened.info.backend == "fake"


class OfOneThread(NullRunner):
    """Notes which threads use it, and how many calls of all are in flight at most."""

    in_flight, most = 0, 0
    lock = threading.Lock()

    def __init__(self) -> None:
        super().__init__(SHAPE)
        self.threads = {threading.get_ident()}
        OPENED.append(self)

    def infer(self, images: Uint8Array) -> Uint8Array:
        self.threads.add(threading.get_ident())
        with self.lock:
            OfOneThread.in_flight += 1
            OfOneThread.most = max(self.most, self.in_flight)
        time.sleep(0.005)
        with self.lock:
            OfOneThread.in_flight -= 1
        return super().infer(images)

    def stage(self, batches: Sequence[Uint8Array]) -> None:
        self.threads.add(threading.get_ident())

    def launch(self, index: int) -> None:
        self.threads.add(threading.get_ident())


OPENED: list[OfOneThread] = []


@pytest.mark.parametrize("streams", [1, 4])
def test_streams_run_at_the_same_time_each_in_its_own_thread(streams: int) -> None:
    """A CUDA graph of onnxruntime belongs to the thread that opened, staged and warmed it."""
    OPENED.clear()
    OfOneThread.most = 0
    timed = Timer(Recipe(OfOneThread, {}, Path("m")), INPUTS, streams)
    for scope in ("host", "device"):
        timed.warm_up(scope, 0.1)
        assert len(timed.turn(scope, 20).samples_ns) == 20
    assert len(OPENED) == streams == OfOneThread.most
    assert len(set.union(*(runner.threads for runner in OPENED))) == streams


class OnGpu(FakeRunner):
    """A call takes 20 ms of the host's clock, of which the GPU works 3."""

    def gpu_seconds(self, index: int) -> float:
        self.launch(index)
        return 0.003

    @property
    def info(self) -> RunnerInfo:
        return replace(super().info, device=self.device)

    device = "NVIDIA Fake"


def test_events_tell_the_time_of_the_gpu(clock: Clock) -> None:
    runner = OnGpu(clock, lambda call, _: 20 * MS, [])
    timed = timer_of(runner)
    assert timed.warm_up("events", 0.1) == pytest.approx(0.003)
    turn = timed.turn("events", 10)
    assert turn.samples_ns == (3_000_000,) * 10
    assert turn.wall_s == pytest.approx(0.03)
    runner.device = "cpu (2 threads)"
    assert timer_of(runner).warm_up("events", 0.1) is None
    runner.device = "NVIDIA Fake"
    assert timer_of(runner, streams=2).warm_up("events", 0.1) is None
    assert timer_of(NullRunner(SHAPE)).warm_up("events", 0.1) is None


def test_the_processor_time_of_a_turn_is_its_own(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = timer_of(FakeRunner(clock, lambda call, _: 20 * MS, []))
    timed.warm_up("host", 0.1)
    monkeypatch.setattr(timer, "_cpu_seconds", iter((3.0, 3.05)).__next__)
    turn = timed.turn("host", 10)
    assert (turn.wall_s, turn.cpu_s) == pytest.approx((0.2, 0.05), abs=1e-4)


def test_the_harness_can_time_nothing_at_all() -> None:
    """With the backend that does nothing, what is left is the timer's own."""
    runner = NullRunner(SHAPE)
    timed = timer_of(runner)
    for scope in ("host", "device"):
        timed.warm_up(scope, 0.05)
        samples = timed.turn(scope, 100).samples_ns
        assert len(samples) == 100 and min(samples) >= 0
    assert not runner.infer(INPUTS[0]).any()
    assert timed.host_peak_bytes() > 10_000_000


class Profiled(NullRunner):
    def layer_times(self, images: Uint8Array, calls: int) -> tuple[LayerTime, ...]:
        assert images.shape == SHAPE and calls == 7
        return LayerTime.ranked([("b", "Relu", 1.0), ("a", "Conv", 3.0)])


def test_layers_come_from_the_backends_own_profile() -> None:
    first, second = timer_of(Profiled(SHAPE)).layer_times(7)
    assert (first.name, first.kind, first.share) == ("a", "Conv", 0.75)
    assert (second.seconds, second.share) == (1.0, 0.25)
    with pytest.raises(BackendUnavailable, match="null lacks a profile by layer"):
        timer_of(NullRunner(SHAPE)).layer_times(7)


_ROW_WITHOUT_A_MANIFEST = """
import sys
from pathlib import Path
import numpy as np
from bench.backends.base import Recipe
from bench.measure.timer import Timer
from dabnet.runtime.runner import NullRunner
assert "pydantic" not in sys.modules

def opened():
    assert "pydantic.type_adapter" in sys.modules
    before = set(sys.modules)
    from pydantic import TypeAdapter
    assert not [name for name in sys.modules.keys() - before if name.startswith("pydantic")]
    return NullRunner((1, 8, 8, 3))

Timer(Recipe(opened, {}, Path("row")), [np.zeros((1, 8, 8, 3), np.uint8)])
"""


def test_rows_without_a_manifest_hold_what_reads_one_before_they_load() -> None:
    """Else the others would load 0.2 s longer and hold 11 MB more for no reason of theirs."""
    ran = run_python(_ROW_WITHOUT_A_MANIFEST)
    assert (ran.returncode, ran.stderr) == (0, "")
