"""Speed of an export for CPUs, beside what its user would get without it.

    python studies/export_speed.py --gains

Each row runs in a process of its own, as its user has it, and takes its turn in rounds whose order
is drawn anew, on the same images; each gives a uint8 image's class mask in FP32, and says on how
many pixels it agrees with PyTorch:

- pytorch eager, torch.compile (BatchNorm folded, channels last): the checkpoint's own;
- plain export: `torch.onnx.export` on onnxruntime, nothing else;
- openvino: the plain export on OpenVINO's CPU plugin (extra `peers`);
- ort-cpu: `dabnet-export onnx --optimize-for ort-cpu` on onnxruntime;
- ort-cpu without X (--gains): what each graph pass is worth.

The last column is what a pass is worth in rows of --gains: how much faster ort-cpu is than they.
A second table tells rounds in which the cores shared a cache from those in which they did not.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime
import torch
from core_latency import CoreWatch, rounds_by_cores
from study import disturbed, input_options, keep, markdown, opened, ratio_text, timed

from bench.backends.base import Recipe
from bench.isolation import Isolated, ProcessFailed
from bench.machine.environment import describe_environment
from bench.measure.request import Scenario
from bench.measure.timer import Timer
from bench.record import Turn
from bench.statistics import latency, speed_ratio
from dabnet.artifact import open_checkpoint
from dabnet.checkpoint import load_checkpoint
from dabnet.console import CONTEXT, progress_bar, run
from dabnet.data.images import check_source
from dabnet.runtime.openvino_runner import OpenVinoRunner
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from dabnet.runtime.runner import Uint8Array
from export.onnx_export import export_onnx
from export.onnx_file import load_onnx, manifest_of
from export.spec import ExportSpec

CALLS = 8
DENSE, DEPTHWISE = "Conv, dense", "Conv, depthwise"


def milliseconds_by_kind(path: Path, images: list[Uint8Array], threads: int) -> dict[str, float]:
    """Median time of a call spent in each kind of operator, most first.

    Source: onnxruntime's profiler, and its optimised graph, which says which Conv is depthwise:
    https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html
    """
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # a graph of one machine's layout is what is wanted here
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "trace")
        options.optimized_model_filepath = str(optimised)
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        for number in range(CALLS):
            session.run(None, {session.get_inputs()[0].name: images[number % len(images)]})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        groups = {
            node.name: attribute.i
            for node in onnx.load(optimised).graph.node
            for attribute in node.attribute
            if attribute.name == "group"
        }
    calls: dict[str, list[float]] = defaultdict(list)
    kinds: dict[str, str] = {}
    for event in events:
        name = event["name"].removesuffix("_kernel_time")
        if event["cat"] != "Node" or name == event["name"]:
            continue
        kind = event["args"]["op_name"]
        if kind == "Conv":
            kind = DEPTHWISE if groups.get(name, 1) > 1 else DENSE
        kinds[name] = kind
        calls[name].append(event["dur"] / 1e3)
    totals: dict[str, float] = defaultdict(float)
    for name, durations in calls.items():
        totals[kinds[name]] += statistics.median(durations[1:])  # the first call sets up
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


def profile_table(profiles: dict[str, dict[str, float]]) -> str:
    """Return the kinds as Markdown, a column a file; what is below 1 % everywhere is one row."""
    totals = {name: sum(kinds.values()) for name, kinds in profiles.items()}
    order = list(dict.fromkeys(kind for kinds in profiles.values() for kind in kinds))
    shown = [
        kind
        for kind in order
        if any(kinds.get(kind, 0) >= 0.01 * totals[name] for name, kinds in profiles.items())
    ]
    rows = {kind: [kinds.get(kind, 0) for kinds in profiles.values()] for kind in shown}
    rows["others"] = [
        totals[name] - sum(kinds.get(kind, 0) for kind in shown) for name, kinds in profiles.items()
    ]
    rows["all"] = list(totals.values())
    headings = ("operators", *(f"{name}, ms" for name in profiles))
    return markdown(headings, [[k, *(f"{ms:.1f}" for ms in row)] for k, row in rows.items()])


EAGER, COMPILED, PLAIN = "pytorch eager", "torch.compile", "plain export"
OPENVINO, OURS = "openvino", "ort-cpu"
IMAGES = 4  # inputs in turn, so that no cache of a result can flatter a row


@dataclass(frozen=True, slots=True)
class Row:
    """What one row gave."""

    name: str
    agreement: float
    rounds: list[Turn]


class MaskTimer(Timer):
    """Also gives the masks of what it times."""

    def masks(self) -> list[Uint8Array]:
        return [self._runners[0].infer(batch) for batch in self._inputs]


class Exports:
    """What the rows run, exported into a folder."""

    def __init__(
        self, checkpoint: Path, data_dir: Path | None, size: tuple[int, int], threads: int, at: Path
    ) -> None:
        self._checkpoint, self._data_dir, self._at = checkpoint, data_dir, at
        self._size, self._threads = size, threads

    def recipes(self, compiled: bool, gains: bool) -> dict[str, Recipe]:
        """The rows by name, in the order of the table."""
        plain, ours = self.file("portable"), self.file(OURS)
        rows = {EAGER: self._torch("eager")}
        if compiled:
            rows[COMPILED] = self._torch("compiled")
        openvino = {"path": plain, "precision": "fp32", "threads": self._threads}
        rows[PLAIN] = self._onnxruntime(plain)
        rows[OPENVINO] = Recipe(OpenVinoRunner, openvino, plain)
        rows[OURS] = self._onnxruntime(ours)
        if gains:
            for applied in manifest_of(load_onnx(ours), OURS).passes:
                without = self.file(OURS, applied.name)
                rows[f"{OURS} without {applied.name}"] = self._onnxruntime(without)
        return rows

    def images(self) -> list[Uint8Array]:
        dataset = load_checkpoint(self._checkpoint).dataset
        source = check_source(dataset, self._data_dir, IMAGES, self._size)
        return [item.image[None].copy() for item in source]  # PyTorch wants to write

    def file(self, target: str, without: str = "") -> Path:
        path = self._at / f"{target}-{without}.onnx"
        if not path.exists():
            left_out = (without,) if without else ()
            spec = ExportSpec(
                self._size, optimize_for=target, without_passes=left_out, check_images=1
            )
            export_onnx(
                self._checkpoint, path, spec, data_dir=self._data_dir, progress=progress_bar
            )
        return path

    def _torch(self, mode: str) -> Recipe:
        arguments = {
            "checkpoint": self._checkpoint,
            "dataset": None,
            "shape": (1, *self._size, 3),
            "threads": self._threads,
            "mode": mode,
        }
        return Recipe(open_checkpoint, arguments, self._checkpoint)

    def _onnxruntime(self, path: Path) -> Recipe:
        return Recipe(OnnxRuntimeRunner, {"path": path, "threads": self._threads}, path)


def agreements(timers: dict[str, Isolated]) -> dict[str, float]:
    """Share of pixels on which each row's masks equal those of PyTorch."""
    masks = {name: np.stack(timer.call("masks")) for name, timer in timers.items()}
    return {name: float(np.mean(found == masks[EAGER])) for name, found in masks.items()}


def table(rows: list[Row], reasons: dict[str, str]) -> str:
    """Return the rows as Markdown; speeds are paired over rounds."""
    headings = ("row", "agrees %", "p50 ms", f"speed to {EAGER} [95 %]")
    headings += ("ort-cpu to this row [95 %]",)
    cells = []
    rounds = {row.name: row.rounds for row in rows}
    for row in rows:
        time = latency(row.rounds)
        p50 = time.p50_ms if time else float("nan")
        ratios = [_ratio(rounds, EAGER, row.name), _ratio(rounds, row.name, OURS)]
        cells.append([row.name, f"{100 * row.agreement:.4f}", f"{p50:.1f}", *ratios])
    cells += [[name, f"not run: {reason}"] for name, reason in reasons.items()]
    return markdown(headings, cells)


def cores_table(rows: list[Row], groups: dict[str, tuple[float, set[int]]]) -> str:
    """How much faster ort-cpu is than each row, by where the cores were; see ``core_latency``."""
    peers = [row for row in rows if row.name != OURS]
    (ours,) = (row.rounds for row in rows if row.name == OURS)
    headings = ("cores", "rounds", *(f"ort-cpu to {row.name}" for row in peers))
    cells = []
    for name, (nanoseconds, numbers) in groups.items():

        def among(turns: list[Turn], numbers: set[int] = numbers) -> list[Turn]:
            return [turn for turn in turns if turn.round in numbers]

        ratios = (ratio_text(speed_ratio(among(row.rounds), among(ours))) for row in peers)
        words = {"shared": "share a cache", "apart": "share none"}[name]
        cells.append([f"{words} ({nanoseconds:.0f} ns)", str(len(numbers)), *ratios])
    return markdown(headings, cells)


def _ratio(rounds: dict[str, list[Turn]], reference: str, candidate: str) -> str:
    if reference == candidate:
        return "reference" if candidate == EAGER else ""
    return ratio_text(speed_ratio(rounds[reference], rounds[candidate]))


@click.command(context_settings=CONTEXT, help=__doc__.split("\n\n", 1)[0])
@input_options
@click.option("--threads", type=click.IntRange(1), default=torch.get_num_threads())
@click.option("--rounds", type=click.IntRange(2), default=10, show_default=True)
@click.option("--round-seconds", type=float, default=2.0, show_default=True)
@click.option(
    "--compiled/--no-compiled", default=True, help="torch.compile takes minutes to start."
)
@click.option("--gains", is_flag=True, help="Also our export without each of its passes.")
@click.option("--profile", is_flag=True, help="Also where the time of two rows goes.")
def benchmark(
    checkpoint: Path,
    data_dir: Path | None,
    size: tuple[int, int],
    threads: int,
    rounds: int,
    round_seconds: float,
    compiled: bool,
    gains: bool,
    profile: bool,
    record: Path | None,
) -> None:
    scenario = Scenario(scopes=("host",), rounds=rounds, min_time_s=rounds * round_seconds)
    with TemporaryDirectory() as folder:
        exports = Exports(checkpoint, data_dir, size, threads, Path(folder))
        images = exports.images()
        services = {
            name: (MaskTimer, (recipe, images))
            for name, recipe in exports.recipes(compiled, gains).items()
        }
        with ExitStack() as stack:
            with progress_bar("opening", len(services), unit="rows") as step:
                timers, reasons = stack.enter_context(opened(services, Path(folder), step))
            if EAGER in reasons:
                raise ProcessFailed(reasons[EAGER])
            agrees = agreements(timers)
            watch = CoreWatch()
            with progress_bar("timing", rounds, unit="rounds") as step:
                turns = timed(timers, scenario, step, watch)
        profiles = {}
        if profile:
            files = {PLAIN: exports.file("portable"), OURS: exports.file(OURS)}
            profiles = {n: milliseconds_by_kind(f, images, threads) for n, f in files.items()}
    rows = [Row(name, agrees[name], turns[name]) for name in timers]
    facts = describe_environment()
    groups = rounds_by_cores(turns, watch.latencies)
    click.echo(table(rows, reasons))
    if groups:
        click.echo(f"\n{cores_table(rows, groups)}")
    click.echo(
        f"\n{checkpoint.name}, {size[0]}x{size[1]}, batch 1, host to host, FP32, {threads} threads,"
        f" {rounds} rounds of {round_seconds:g} s; {facts['processor']}, PyTorch"
        f" {torch.__version__}, ONNX Runtime {facts['onnxruntime']}"
    )
    if profiles:
        click.echo(f"\n{profile_table(profiles)}")
    if others := disturbed(turns):
        click.echo(f"DISTURBED by other processes: {others} turns; repeat it when quiet")
    content: dict[str, Any] = {"threads": threads, "reasons": reasons, "disturbed_turns": others}
    content["milliseconds_by_kind"] = profiles
    content["cores"] = {
        name: {"latency_ns": latency, "rounds": sorted(numbers)}
        for name, (latency, numbers) in groups.items()
    }
    content["rows"] = {
        row.name: {
            "agreement": row.agreement,
            "rounds_ns": [turn.samples_ns for turn in row.rounds if turn.counted],
        }
        for row in rows
    }
    keep(record, size, content)


if __name__ == "__main__":
    run(benchmark)
