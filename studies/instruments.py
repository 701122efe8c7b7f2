"""Accuracy of the instruments of dabnet-bench, measured on this machine.

    python studies/instruments.py

1. What the harness adds to a call: with the null runner, and to a call of exactly 1 ms against a
   bare loop that reads the clock only before the first call and after the last.
2. onnxruntime through the harness, against a loop written by hand and against one that repeats a
   bound call, as onnxruntime_perf_test does. TensorRT (--engine), against trtexec.
3. The same artifact as two rows, several times: how often they are called indistinguishable, and
   with 2 % more work in one of them, how often that is found.

All pairs run in processes of their own and in interleaved rounds, as rows of dabnet-bench do.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from study import Service, disturbed, input_options, keep, markdown, opened, ratio_text, timed

from bench.backends.base import Recipe
from bench.isolation import ProcessFailed
from bench.machine.environment import describe_environment
from bench.measure.harness import harness_ns
from bench.measure.request import Scenario
from bench.measure.timer import LEAST_CALLS, Timed, Timer
from bench.statistics import speed_ratio, verdict
from dabnet.checkpoint import load_checkpoint
from dabnet.console import CONTEXT, progress_bar, run
from dabnet.data.images import check_source
from dabnet.errors import BackendUnavailable, InputError
from dabnet.files import existing_file
from dabnet.intervals import Interval
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from dabnet.runtime.runner import NullRunner, Uint8Array
from dabnet.runtime.trt.check import read_engine_manifest
from dabnet.runtime.trt.runner import TensorRTRunner
from export.onnx_export import export_onnx
from export.spec import ExportSpec


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


WARM_UP_CALLS = 20


class TrtexecLoop:
    """Each turn is a run of trtexec, of which GPU Compute Time is taken.

    That is the time between two events of the stream, around the kernels of a call. The harness's
    scope `device` holds the launch and the wait besides; nothing is copied in either.
    (https://docs.nvidia.com/deeplearning/tensorrt/latest/reference/command-line-programs.html)

    Args:
        engine: written by dabnet-export, of fixed sides or with the shape in its manifest.
        trtexec: the program; TensorRT-RTX calls its own ``tensorrt_rtx``.

    Raises:
        BackendUnavailable: it cannot be started, fails, or timed fewer calls than it was told.
    """

    def __init__(self, engine: Path, trtexec: str) -> None:
        manifest, _ = read_engine_manifest(engine)
        self._command = [trtexec, f"--loadEngine={engine}", "--noDataTransfers"]
        self._command += ["--duration=0", "--warmUp=200", "--infStreams=1"]
        if manifest.is_dynamic:
            sides = "x".join(str(side) for side in (*manifest.example, 3))
            self._command.append(f"--shapes={manifest.input.name}:{sides}")

    def warm_up(self, scope: str, bound_s: float) -> float:
        return self.turn(scope, WARM_UP_CALLS).wall_s / WARM_UP_CALLS

    def turn(self, scope: str, calls: int) -> Timed:
        calls, before = max(LEAST_CALLS, calls), cpu_seconds()
        with tempfile.TemporaryDirectory() as folder:
            times = Path(folder) / "times.json"
            words = [*self._command, f"--iterations={calls}", f"--exportTimes={times}"]
            self._run(words)
            try:
                queries = json.loads(times.read_text(encoding="utf-8"))
                samples = [round(1e6 * float(query["computeMs"])) for query in queries]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise BackendUnavailable(f"{words[0]} left no times ({error})") from error
        if len(samples) < calls:
            raise BackendUnavailable(f"{words[0]} timed {len(samples)} calls of {calls}")
        counted = tuple(samples[-calls:])  # older releases keep those of the warm-up too
        return Timed(counted, sum(counted) / 1e9, cpu_seconds() - before)

    def _run(self, words: list[str]) -> None:
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except OSError as error:
            raise BackendUnavailable(f"{words[0]!r} does not start ({error.strerror})") from error
        if done.returncode:
            said = [line for line in (done.stdout + done.stderr).splitlines() if "[E]" in line]
            reason = said[0] if said else f"exit code {done.returncode}"
            raise BackendUnavailable(f"{words[0]} failed: {reason}")


MS = 1_000_000
SLOWER = 1.02


class Comparison:
    """Pairs of services, timed in interleaved rounds.

    Args:
        scenario: rounds and time of each pair.
        folder: for the processes' output.
    """

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self._scenario, self._folder = scenario, folder
        self.disturbed = 0

    def ratio(self, reference: Service, candidate: Service, scope: str = "host") -> Interval:
        """How many times faster the candidate is."""
        services = {"reference": reference, "candidate": candidate}
        with opened(services, self._folder) as (timers, reasons):
            if reasons:
                raise ProcessFailed("; ".join(reasons.values()))
            turns = timed(timers, replace(self._scenario, scopes=(scope,)))
        self.disturbed += disturbed(turns)
        found = speed_ratio(turns["reference"], turns["candidate"])
        if found is None:
            raise RuntimeError("fewer than two rounds")
        return found


@click.command(context_settings=CONTEXT, help=__doc__.split("\n\n", 1)[0])
@input_options
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--rounds", type=click.IntRange(2), default=30, show_default=True)
@click.option("--min-time", type=click.FloatRange(0.01), default=5.0, show_default=True)
@click.option("--pairs", type=click.IntRange(1), default=10, show_default=True)
@click.option("--engine", type=click.Path(path_type=Path), help="Also TensorRT, on this engine.")
@click.option("--trtexec", default="trtexec", show_default=True, help="The program.")
def benchmark(
    checkpoint: Path,
    data_dir: Path | None,
    size: tuple[int, int],
    threads: int,
    rounds: int,
    min_time: float,
    pairs: int,
    engine: Path | None,
    trtexec: str,
    record: Path | None,
) -> None:
    if engine is not None:
        existing_file(engine, "an engine written by dabnet-export")
        if shutil.which(trtexec) is None:
            raise InputError(f"no program {trtexec!r}", "trtexec", "name its file with --trtexec")
    scenario = Scenario(scopes=("host",), rounds=rounds, min_time_s=min_time)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        path = folder / "graph.onnx"
        spec = ExportSpec(size, optimize_for="ort-cpu", check_images=1)
        export_onnx(checkpoint, path, spec, data_dir=data_dir, progress=progress_bar)
        dataset = load_checkpoint(checkpoint).dataset
        images = [item.image[None] for item in check_source(dataset, data_dir, 4, size)]
        comparison = Comparison(scenario, folder)
        figures: dict[str, Any] = {"null_ns": harness_ns(size, folder)}

        def row(runner: Callable[..., Any], **arguments: Any) -> Service:
            return Timer, (Recipe(runner, arguments, path), images)

        spin: dict[str, Any] = {"shape": (1, *size, 3), "seconds": 1e-3}
        ours = row(OnnxRuntimeRunner, path=path, threads=threads)
        slowed = row(Slowed, path=path, threads=threads, factor=SLOWER)
        ratios: dict[str, tuple[Service, Service]] = {
            "a 1 ms call: harness to a bare loop": ((BareLoop, (spin,)), row(Spin, **spin)),
            "onnxruntime: harness to a loop by hand": ((PlainLoop, (path, images, threads)), ours),
            "onnxruntime: harness to a bound call, repeated": (
                (PerfTestLoop, (path, images, threads)),
                ours,
            ),
        }
        scopes = dict.fromkeys(ratios, "host")
        if engine is not None:
            name = "TensorRT: harness to trtexec's GPU Compute Time"
            ratios[name] = (
                (TrtexecLoop, (engine, trtexec)),
                row(TensorRTRunner, engine_path=engine),
            )
            scopes[name] = "device"
        equal, slower = [], []
        with progress_bar("comparing", len(ratios) + 2 * pairs, "pairs") as step:
            for name, pair in ratios.items():
                figures[name] = comparison.ratio(*pair, scope=scopes[name])
                step()
            for _ in range(pairs):
                equal.append(comparison.ratio(ours, ours))
                step()
                slower.append(comparison.ratio(ours, slowed))
                step()
    rows = [[name, ratio_text(figures[name], 4)] for name in ratios]
    if engine is None:
        rows.append(["TensorRT: harness to trtexec", "not compared: name an engine (--engine)"])
    click.echo(markdown(("what", "speed ratio [95 %]"), rows))
    null = figures["null_ns"]
    click.echo(f"\na call of the null runner: {null:.0f} ns, {100 * null / MS:.3f} % of 1 ms")
    same = sum(verdict(ratio) == "indistinguishable" for ratio in equal)
    found = sum(verdict(ratio) == "slower" for ratio in slower)
    spread = 100 * float(np.std([np.log(ratio.value) for ratio in equal]))
    click.echo(
        f"the same artifact as two rows: indistinguishable in {same} of {pairs}"
        f" (their ratios differ by {spread:.2f} %, standard deviation)"
    )
    click.echo(f"{100 * (SLOWER - 1):.0f} % more work in one of them: found in {found} of {pairs}")
    facts = describe_environment()
    click.echo(
        f"{checkpoint.name}, {size[0]}x{size[1]}, {threads} threads, {rounds} rounds and"
        f" {min_time:g} s a row; {facts['processor']}, ONNX Runtime {facts['onnxruntime']};"
        f" turns that others disturbed: {comparison.disturbed}"
    )
    keep(record, size, {"equal": equal, "slower": slower, **figures})


if __name__ == "__main__":
    run(benchmark)
