"""Accuracy of the instruments of dabnet-bench, measured on this machine.

    python studies/instruments.py

1. What the harness adds to a call: with the null runner, and to a call of exactly 1 ms against a
   bare loop that reads the clock only before the first call and after the last.
2. onnxruntime through the harness, against a loop written by hand and against one that repeats a
   bound call, as onnxruntime_perf_test does. TensorRT (--engine), against trtexec.
3. The same artifact as two rows, several times: how often they are called equal and not told apart,
   and with 2 % more work in one of them, how often the interval of their ratio excludes 1.

All pairs run in processes of their own and in interleaved rounds, as rows of dabnet-bench do.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import click
import numpy as np
import study

from bench import statistics
from bench.backends.base import Recipe
from bench.isolation import ProcessFailed
from bench.measure.request import Scenario
from bench.measure.timer import LEAST_CALLS, Timed, Timer, harness_ns
from bench.record.timing import speed_ratio
from dabnet.console import FILE, progress_bar, run
from dabnet.errors import BackendUnavailable, InputError
from dabnet.files import existing_file
from dabnet.intervals import Interval
from dabnet.runtime.manifest import read_engine_manifest
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from dabnet.runtime.runner import NullRunner, Uint8Array
from dabnet.runtime.trt.runner import TensorRTRunner

WARM_UP_CALLS = 20
MORE_WORK = 1.02
"""Factor of the time of a row that does more work."""


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


class Loop:
    """Times whole turns: clock, calls, clock. ``call`` gets the number of the call."""

    def __init__(self, call: Callable[[int], Any]) -> None:
        self._call = call

    def warm_up(self, scope: str, bound_s: float) -> float:
        self.turn(scope, WARM_UP_CALLS)
        return self.turn(scope, WARM_UP_CALLS).wall_s / WARM_UP_CALLS

    def settle(self, scope: str) -> None:
        self._call(-1)

    def turn(self, scope: str, calls: int) -> Timed:
        before = cpu_seconds()
        samples, wall = self._samples(calls)
        return Timed(samples, wall, cpu_seconds() - before)

    def _samples(self, calls: int) -> tuple[tuple[int, ...], float]:
        call, start = self._call, time.perf_counter()
        for number in range(calls):
            call(number)
        wall = time.perf_counter() - start
        return (round(1e9 * wall / calls),) * calls, wall


class BareLoop(Loop):
    """Calls a runner and nothing else."""

    def __init__(self, recipe: Recipe, images: Sequence[Uint8Array]) -> None:
        runner = recipe.opened()
        super().__init__(lambda number: runner.infer(images[number % len(images)]))


class PlainLoop(Loop):
    """``session.run`` on numpy arrays, with the clock around each call: what is in most scripts."""

    def __init__(self, path: Path, images: Sequence[Uint8Array], threads: int) -> None:
        session = _session(path, threads)
        name = session.get_inputs()[0].name
        super().__init__(lambda number: session.run(None, {name: images[number % len(images)]}))

    def _samples(self, calls: int) -> tuple[tuple[int, ...], float]:
        samples, begin = [], time.perf_counter()
        for number in range(calls):
            start = time.perf_counter_ns()
            self._call(number)
            samples.append(time.perf_counter_ns() - start)
        return tuple(samples), time.perf_counter() - begin


class PerfTestLoop(Loop):
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

    def settle(self, scope: str) -> None:
        """trtexec warms up by itself."""

    def turn(self, scope: str, calls: int) -> Timed:
        calls, before = max(LEAST_CALLS, calls), cpu_seconds()
        with TemporaryDirectory() as folder:
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


class Pair(NamedTuple):
    """Two services that are compared, in one scope."""

    reference: study.Service
    candidate: study.Service
    scope: str = "host"


EQUAL, SLOWER = "equal", "slower"
"""Names of the pairs that are compared several times: one artifact twice, and with more work."""


def pairs_of(
    inputs: study.Inputs, threads: int, engine: Path | None, trtexec: str, folder: Path
) -> dict[str, Pair]:
    """Export into ``folder``, and return what is compared, by name."""
    images = inputs.images(4)
    path = inputs.export(folder / "graph.onnx", optimize_for="ort-cpu")

    def row(runner: Callable[..., Any], **arguments: Any) -> study.Service:
        return Timer, (Recipe(runner, arguments, path), images)

    spin = row(Spin, shape=(1, *inputs.size, 3), seconds=1e-3)
    ours = row(OnnxRuntimeRunner, path=path, threads=threads)
    slowed = row(Slowed, path=path, threads=threads, factor=MORE_WORK)
    by_hand, bound = ((loop, (path, images, threads)) for loop in (PlainLoop, PerfTestLoop))
    pairs = {
        "a 1 ms call: harness to a bare loop": Pair((BareLoop, spin[1]), spin),
        "onnxruntime: harness to a loop by hand": Pair(by_hand, ours),
        "onnxruntime: harness to a bound call, repeated": Pair(bound, ours),
    }
    if engine is not None:
        theirs = TrtexecLoop, (engine, trtexec)
        on_gpu = row(TensorRTRunner, engine_path=engine)
        name = "TensorRT: harness to trtexec's GPU Compute Time"
        pairs[name] = Pair(theirs, on_gpu, "device")
    return pairs | {EQUAL: Pair(ours, ours), SLOWER: Pair(ours, slowed)}


def ratio_of(pair: Pair, scenario: Scenario, folder: Path) -> tuple[Interval, int]:
    """How many times faster the candidate is, and the number of turns that others disturbed."""
    services = {"reference": pair.reference, "candidate": pair.candidate}
    with study.opened(services, folder) as (timers, reasons):
        if reasons:
            raise ProcessFailed("; ".join(reasons.values()))
        turns = study.timed(timers, replace(scenario, scopes=(pair.scope,)))
    found = speed_ratio(turns["reference"], turns["candidate"])
    if found is None:
        raise ProcessFailed("fewer than two rounds")
    return found, study.disturbed(turns)


def text(ratios: Mapping[str, list[Interval]], null_ns: float) -> str:
    """Return the table of the pairs as Markdown, and a sentence for each other figure."""
    compared = [name for name in ratios if name not in (EQUAL, SLOWER)]
    rows = [[name, study.ratio_text(ratios[name][0], 4)] for name in compared]
    if not any(name.startswith("TensorRT") for name in compared):
        rows.append(["TensorRT: harness to trtexec", "not compared: name an engine (--engine)"])
    equal, slower = ratios[EQUAL], ratios[SLOWER]
    words = Counter(statistics.verdict(ratio) for ratio in equal)
    found = sum(ratio.high < 1 for ratio in slower)
    spread = 100 * float(np.std([np.log(ratio.value) for ratio in equal]))
    return (
        f"{study.markdown(('what', 'speed ratio [95 %]'), rows)}\n\n"
        f"a call of the null runner: {null_ns:.0f} ns, {100 * null_ns / 1e6:.3f} % of 1 ms\n"
        f"the same artifact as two rows: equal in {words[statistics.EQUAL]} and not told apart in"
        f" {words[statistics.NOT_TOLD]} of {len(equal)} (their ratios differ by {spread:.2f} %,"
        " standard deviation)\n"
        f"{100 * (MORE_WORK - 1):.0f} % more work in one of them: found in {found} of {len(slower)}"
    )


@study.command
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--rounds", type=click.IntRange(2), default=30, show_default=True)
@click.option("--min-time", type=click.FloatRange(0.01), default=5.0, show_default=True)
@click.option("--pairs", type=click.IntRange(1), default=10, show_default=True)
@click.option("--engine", type=FILE, help="Also TensorRT, on this engine.")
@click.option("--trtexec", default="trtexec", show_default=True, help="The program.")
def main(
    inputs: study.Inputs,
    threads: int,
    rounds: int,
    min_time: float,
    pairs: int,
    engine: Path | None,
    trtexec: str,
) -> None:
    if engine is not None:
        existing_file(engine, "an engine written by dabnet-export")
        if shutil.which(trtexec) is None:
            raise InputError(f"no program {trtexec!r}", "trtexec", "name its file with --trtexec")
    scenario = Scenario(scopes=("host",), rounds=rounds, min_time_s=min_time)
    ratios, disturbed = defaultdict[str, list[Interval]](list), 0
    with TemporaryDirectory() as made:
        folder = Path(made)
        compared = pairs_of(inputs, threads, engine, trtexec, folder)
        null_ns = harness_ns(inputs.size, folder)
        names = [name for name in compared if name not in (EQUAL, SLOWER)]
        names += [EQUAL, SLOWER] * pairs
        with progress_bar("comparing", len(names), "pairs") as step:
            for name in names:
                found, turns = ratio_of(compared[name], scenario, folder)
                ratios[name].append(found)
                disturbed += turns
                step()
    click.echo(text(ratios, null_ns))
    facts = f"{inputs.subject}, {threads} threads, {rounds} rounds and {min_time:g} s per row"
    kept = {n: own if n in (EQUAL, SLOWER) else own[0] for n, own in ratios.items()}
    content = {"size": inputs.size, "null_ns": null_ns, **kept}
    study.conclude(facts, inputs.record, content, turns=disturbed)


if __name__ == "__main__":
    run(main)
