"""The timer: it runs in the process of one row, and knows a runner by its protocol alone."""

from __future__ import annotations

import contextlib
import gc
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.isolation import Isolated
from bench.measure.camera import Arrivals, serve
from dabnet.errors import BackendUnavailable
from dabnet.runtime.runner import (
    HasGpuTimes,
    HasLayerTimes,
    LayerTime,
    NullRunner,
    Runner,
    RunnerInfo,
    Uint8Array,
)

if TYPE_CHECKING:
    from bench.backends.base import Recipe

Call = Callable[[int], Any]  # what one sample times; it gets the number of the call
EVENTS = "events"  # the scope whose calls tell their own seconds, by the clock of the GPU

LEAST_CALLS = 3
_SETTLE_S = 0.02
_WINDOW_S = 0.2
_WINDOWS = 3
_TOLERANCE = 0.03


def peak_bytes() -> int:
    """Peak memory of this process."""
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss is at least the parent's at the fork
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        if peak := [line for line in lines if line.startswith("VmHWM:")]:
            return 1024 * int(peak[0].split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@dataclass(frozen=True, slots=True)
class Opened:
    """A runner that was opened, and the time it took."""

    info: RunnerInfo
    load_s: float
    first_inference_s: float


@dataclass(frozen=True, slots=True)
class Timed:
    """One turn: latency of each call, time of all, and processor time with the uncounted calls."""

    samples_ns: tuple[int, ...]
    wall_s: float
    cpu_s: float
    dropped: int = 0  # frames without a call; see ``bench.measure.camera``


class _Lane:
    """A runner, and the one thread that opens, stages, warms and times it.

    A CUDA graph of onnxruntime belongs to the thread that captured it.

    Args:
        own_thread: False for the thread that calls, which is then the only one.
    """

    def __init__(self, recipe: Recipe, own_thread: bool) -> None:
        self._pool = ThreadPoolExecutor(1) if own_thread else None
        self.runner: Runner = self.do(recipe.opened)

    def start(self, function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        """Begin a call in the runner's thread; return what waits for its result."""
        if self._pool is None:
            return partial(function, *arguments)
        return self._pool.submit(function, *arguments).result

    def do(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self.start(function, *arguments)()


class Timer:
    """Times one candidate.

    Args:
        inputs: batches uint8 (N, H, W, 3), taken in turn; several, so that no cached result counts.
        streams: runners at a time, each with its own thread.
    """

    host_peak_bytes = staticmethod(peak_bytes)

    def __init__(self, recipe: Recipe, inputs: Sequence[Uint8Array], streams: int = 1) -> None:
        # Some rows read a manifest, which takes pydantic, and others do not: with it in each, their
        # times to load and their memory compare.
        import_module("pydantic.type_adapter")
        self._inputs = inputs
        self._calls: dict[str, list[Call]] = {}
        start = time.perf_counter()
        first = _Lane(recipe, streams > 1)
        loaded = time.perf_counter()
        first.do(first.runner.infer, inputs[0])
        took = loaded - start, time.perf_counter() - loaded
        self._opened = Opened(first.do(lambda: first.runner.info), *took)
        self._lanes = [first, *(_Lane(recipe, True) for _ in range(streams - 1))]

    def opened(self) -> Opened:
        return self._opened

    def warm_up(self, scope: str, bound_s: float) -> float | None:
        """Call until the last three windows of time agree within 3 %, or ``bound_s`` is over.

        Return seconds per call; with several streams, from the time of all. None where the
        candidate lacks the scope: only one stream on a GPU has ``events``.
        """
        if scope == EVENTS and not self._has_events:
            return None
        self._calls[scope] = [
            lane.do(_call, lane.runner, self._inputs, scope) for lane in self._lanes
        ]
        deadline = time.perf_counter() + bound_s
        medians: list[float] = []
        calls = LEAST_CALLS
        self.settle(scope)
        while True:
            timed = self.turn(scope, calls)
            a_call = timed.wall_s / len(timed.samples_ns)
            calls = max(LEAST_CALLS, round(_WINDOW_S / max(a_call, 1e-9)))
            medians = [*medians[1 - _WINDOWS :], float(np.median(timed.samples_ns))]
            settled = max(medians) <= (1 + _TOLERANCE) * min(medians)
            if (settled and len(medians) == _WINDOWS) or time.perf_counter() > deadline:
                return a_call

    def turn(self, scope: str, calls: int) -> Timed:
        """Make ``calls`` calls, each stream its part."""
        functions, before = self._calls[scope], _cpu_seconds()
        each = max(LEAST_CALLS, -(-calls // len(functions)))
        with _uncollected():
            start = time.perf_counter()
            samples = self._timed(scope, functions, each)
            wall = time.perf_counter() - start
        if scope == EVENTS:  # what the host does between is no part of it
            wall = float(samples.sum()) / 1e9
        return Timed(tuple(samples.tolist()), wall, _cpu_seconds() - before)

    def settle(self, scope: str) -> None:
        """Make calls that are not counted, at least one of each stream.

        Caches, threads and clocks settle after the row that ran before. The last call has the last
        input, so that none sees the input of the call before.
        """
        settled = time.perf_counter() + _SETTLE_S
        for lane, call in zip(self._lanes, self._calls[scope], strict=True):
            lane.do(_settle, call, settled)

    def serve(self, arrivals: Arrivals) -> Timed:
        """Serve the frames of one window with calls of the scope ``host``, which is warm."""
        (lane, *_), (call, *_), before = self._lanes, self._calls["host"], _cpu_seconds()
        with _uncollected():
            served = lane.do(serve, call, arrivals)
        seconds = _cpu_seconds() - before
        return Timed(served.latencies_ns, served.wall_s, seconds, served.dropped)

    def layer_times(self, calls: int) -> tuple[LayerTime, ...]:
        """The backend's own profile of ``calls`` calls; BackendUnavailable where it has none."""
        lane = self._lanes[0]
        runner = lane.runner
        if not isinstance(runner, HasLayerTimes):
            raise BackendUnavailable(f"{runner.info.backend} lacks a profile by layer")
        times: tuple[LayerTime, ...] = lane.do(runner.layer_times, self._inputs[0], calls)
        return times

    @property
    def _has_events(self) -> bool:
        runner = self._lanes[0].runner
        on_gpu = isinstance(runner, HasGpuTimes) and self._opened.info.on_gpu
        return on_gpu and len(self._lanes) == 1

    def _timed(self, scope: str, functions: list[Call], each: int) -> NDArray[np.int64]:
        if scope == EVENTS:
            return np.array([round(1e9 * functions[0](number)) for number in range(each)])
        together = Barrier(len(functions))

        def work(call: Call) -> NDArray[np.int64]:
            together.wait()
            return timed_calls(call, each)

        waits = [lane.start(work, call) for lane, call in zip(self._lanes, functions, strict=True)]
        return np.concatenate([wait() for wait in waits])


def harness_ns(size: tuple[int, int], logs: Path, calls: int = 2000) -> float:
    """Median nanoseconds of a call that does nothing, timed as every row is."""
    from bench.backends.base import Recipe

    shape = (1, *size, 3)
    inputs = [np.full(shape, value, np.uint8) for value in range(4)]
    arguments = (Recipe(NullRunner, {"shape": shape}, Path("null")), inputs)
    with Isolated("null", Timer, arguments, logs / "null.log") as timer:
        timer.call("warm_up", "host", 0.5)
        return float(np.median(timer.call("turn", "host", calls).samples_ns))


def timed_calls(call: Call, times: int) -> NDArray[np.int64]:
    """Latency of each of ``times`` calls in nanoseconds."""
    samples = np.empty(times, np.int64)
    for number in range(times):
        start = time.perf_counter_ns()
        call(number)
        samples[number] = time.perf_counter_ns() - start
    return samples


def _call(runner: Runner, inputs: Sequence[Uint8Array], scope: str) -> Call:
    count = len(inputs)
    if scope == "host":
        return lambda number: runner.infer(inputs[number % count])
    runner.stage(inputs)
    if scope == EVENTS and isinstance(runner, HasGpuTimes):
        return lambda number: runner.gpu_seconds(number % count)

    def device(number: int) -> None:
        runner.launch(number % count)
        runner.synchronize()

    return device


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without a collection of this process's garbage, which is no part of a call."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _settle(call: Call, until: float) -> None:
    call(-1)
    while time.perf_counter() < until:
        call(-1)


def _cpu_seconds() -> float:
    return sum(resource.getrusage(resource.RUSAGE_SELF)[:2])  # of user and system
