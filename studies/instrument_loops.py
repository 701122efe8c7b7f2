"""Loops that the harness of dabnet-bench is compared with, each written as a user would.

They answer what ``bench.measure.timer.Timer`` answers, so that they can take turns with it; what happens
inside a turn is theirs alone.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure.timer import Timed
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from dabnet.runtime.runner import NullRunner, Uint8Array


class Spin(NullRunner):
    """Keeps the processor busy for so many seconds a call: what is more is the harness's."""

    def __init__(self, shape: tuple[int, int, int, int], seconds: float) -> None:
        super().__init__(shape)
        self._seconds = seconds

    def infer(self, images: Uint8Array) -> Uint8Array:
        until = time.perf_counter() + self._seconds
        while time.perf_counter() < until:
            pass
        return self._masks


class Slowed(OnnxRuntimeRunner):
    """Takes ``factor`` times as long as the call itself just took."""

    def __init__(self, path: Path, threads: int, factor: float) -> None:
        super().__init__(path, threads=threads)
        self._more = factor - 1

    def infer(self, images: Uint8Array) -> Uint8Array:
        start = time.perf_counter()
        masks: Uint8Array = super().infer(images)
        until = time.perf_counter() + self._more * (time.perf_counter() - start)
        while time.perf_counter() < until:
            pass
        return masks


class _Loop:
    """Times whole turns: clock, calls, clock."""

    def __init__(self, call: Callable[[int], Any]) -> None:
        self._call = call

    def warm_up(self, scope: str, bound_s: float) -> float:
        self.turn(scope, 20)
        return self.turn(scope, 20).wall_s / 20

    def turn(self, scope: str, calls: int) -> Timed:
        call, before = self._call, cpu_seconds()
        call(-1)
        start = time.perf_counter()
        for number in range(calls):
            call(number)
        wall = time.perf_counter() - start
        mean = round(1e9 * wall / calls)
        return Timed((mean,) * calls, wall, cpu_seconds() - before)


class BareLoop(_Loop):
    """Calls a ``Spin`` and nothing else."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        runner = Spin(**arguments)
        images = [np.zeros(arguments["shape"], np.uint8)] * 4
        super().__init__(lambda number: runner.infer(images[number % 4]))


class PlainLoop:
    """``session.run`` on numpy arrays, with the clock around each call: what is in most scripts."""

    def __init__(self, path: Path, images: Sequence[Uint8Array], threads: int) -> None:
        session = _session(path, threads)
        name = session.get_inputs()[0].name

        def call(number: int) -> Any:
            return session.run(None, {name: images[number % len(images)]})

        self._call: Callable[[int], Any] = call

    def warm_up(self, scope: str, bound_s: float) -> float:
        self.turn(scope, 20)
        return float(np.median(self.turn(scope, 20).samples_ns)) / 1e9

    def turn(self, scope: str, calls: int) -> Timed:
        before = cpu_seconds()
        self._call(-1)
        samples, begin = [], time.perf_counter()
        for number in range(calls):
            start = time.perf_counter_ns()
            self._call(number)
            samples.append(time.perf_counter_ns() - start)
        return Timed(tuple(samples), time.perf_counter() - begin, cpu_seconds() - before)


class PerfTestLoop(_Loop):
    """One input and one output, bound once, and the call repeated.

    As ``onnxruntime_perf_test`` does by default (onnxruntime/test/perftest/README.md).
    """

    def __init__(self, path: Path, images: Sequence[Uint8Array], threads: int) -> None:
        import onnxruntime

        session = _session(path, threads)
        binding, result = session.io_binding(), session.get_outputs()[0]
        given = onnxruntime.OrtValue.ortvalue_from_numpy(images[0], "cpu", 0)
        binding.bind_ortvalue_input(session.get_inputs()[0].name, given)
        binding.bind_output(result.name, "cpu")
        super().__init__(lambda number: session.run_with_iobinding(binding))


def _session(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def cpu_seconds() -> float:
    """Of this process and of those that it started and has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
