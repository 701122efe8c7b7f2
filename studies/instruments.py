"""Whether the instruments of dabnet-bench can be believed, measured on this machine.

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
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from input_options import input_options
from instrument_loops import BareLoop, PerfTestLoop, PlainLoop, Slowed, Spin
from isolated_rounds import Service, disturbed, opened, timed
from trtexec_loop import TrtexecLoop

from bench.backends.base import Recipe
from bench.isolation import ProcessFailed
from bench.machine.environment import describe_environment
from bench.measure.harness import harness_ns
from bench.measure.request import Scenario
from bench.measure.timer import Timer
from bench.statistics import speed_ratio, verdict
from dabnet.checkpoint import load_checkpoint
from dabnet.console import CONTEXT, progress_bar, run
from dabnet.data.images import check_source
from dabnet.errors import InputError
from dabnet.files import existing_file, writable_target, write_text
from dabnet.intervals import Interval
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from dabnet.runtime.trt.runner import TensorRTRunner
from export.onnx_export import export_onnx
from export.spec import ExportSpec

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


def _shown(ratio: Interval) -> str:
    return f"{ratio.value:.4f} [{ratio.low:.4f}, {ratio.high:.4f}] {verdict(ratio)}"


@click.command(context_settings=CONTEXT, help=__doc__.split("\n\n", 1)[0])
@input_options
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--rounds", type=click.IntRange(2), default=30, show_default=True)
@click.option("--min-time", type=click.FloatRange(0.01), default=5.0, show_default=True)
@click.option("--pairs", type=click.IntRange(1), default=10, show_default=True)
@click.option("--engine", type=click.Path(path_type=Path), help="Also TensorRT, on this engine.")
@click.option("--trtexec", default="trtexec", show_default=True, help="The program.")
@click.option("--json", "record", type=click.Path(path_type=Path), help="Also keep the figures.")
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
    if record is not None:
        writable_target(record)
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
        images = [image[None] for _, image in check_source(dataset, data_dir, 4, size)]
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
    click.echo("| what | speed ratio [95 %] |\n|---|---|")
    for name in ratios:
        click.echo(f"| {name} | {_shown(figures[name])} |")
    if engine is None:
        click.echo("| TensorRT: harness to trtexec | not compared: name an engine (--engine) |")
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
    if record is not None:
        kept = {"equal": equal, "slower": slower, "environment": facts, "size": size, **figures}
        text = json.dumps(kept, indent=1, default=lambda i: [i.value, i.low, i.high])
        write_text(record, text + "\n")


if __name__ == "__main__":
    run(benchmark)
