"""How fast an export for CPUs runs beside what its user would get without it.

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
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch
from core_latency import CoreWatch, rounds_by_cores
from export_profile import milliseconds_by_kind, profile_table
from input_options import input_options
from isolated_rounds import disturbed, opened, timed

from bench.backends.base import Recipe
from bench.isolation import Isolated, ProcessFailed
from bench.machine.environment import describe_environment
from bench.measure.request import Scenario
from bench.measure.timer import Timer
from bench.record import Turn
from bench.statistics import latency, speed_ratio, verdict
from dabnet.artifact import open_checkpoint
from dabnet.checkpoint import load_checkpoint
from dabnet.console import CONTEXT, progress_bar, run
from dabnet.data.images import check_source
from dabnet.files import writable_target, write_text
from dabnet.runtime.openvino_runner import OpenVinoRunner
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from dabnet.runtime.runner import Uint8Array
from export.onnx_export import export_onnx
from export.onnx_file import load_onnx, manifest_of
from export.spec import ExportSpec

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
        return [image[None].copy() for _, image in source]  # PyTorch wants to write

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
    lines = [
        f"| row | agrees % | p50 ms | speed to {EAGER} [95 %] | ort-cpu to this row [95 %] |",
        "|---|---|---|---|---|",
    ]
    rounds = {row.name: row.rounds for row in rows}
    for row in rows:
        time = latency(row.rounds)
        p50 = time.p50_ms if time else float("nan")
        ratios = f"{_ratio(rounds, EAGER, row.name)} | {_ratio(rounds, row.name, OURS)}"
        lines.append(f"| {row.name} | {100 * row.agreement:.4f} | {p50:.1f} | {ratios} |")
    lines += [f"| {name} | not run: {reason} | | | |" for name, reason in reasons.items()]
    return "\n".join(lines)


def cores_table(rows: list[Row], groups: dict[str, tuple[float, set[int]]]) -> str:
    """How much faster ort-cpu is than each row, by where the cores were; see ``core_latency``."""
    peers = [row for row in rows if row.name != OURS]
    (ours,) = (row.rounds for row in rows if row.name == OURS)
    lines = [
        f"| cores | rounds | ort-cpu to {' | to '.join(row.name for row in peers)} |",
        f"|---|---|{'---|' * len(peers)}",
    ]
    for name, (nanoseconds, numbers) in groups.items():
        among = [turn for turn in ours if turn.round in numbers]
        ratios = (
            _ratio(
                {row.name: [t for t in row.rounds if t.round in numbers], OURS: among},
                row.name,
                OURS,
            )
            for row in peers
        )
        words = {"shared": "share a cache", "apart": "share none"}[name]
        cells = f"{words} ({nanoseconds:.0f} ns) | {len(numbers)} | {' | '.join(ratios)}"
        lines.append(f"| {cells} |")
    return "\n".join(lines)


def _ratio(rounds: dict[str, list[Turn]], reference: str, candidate: str) -> str:
    if reference == candidate:
        return "reference" if candidate == EAGER else ""
    ratio = speed_ratio(rounds[reference], rounds[candidate])
    if ratio is None:
        return "–"
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] {verdict(ratio)}"


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
@click.option("--json", "record", type=click.Path(path_type=Path), help="Also keep every sample.")
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
    if record is not None:
        writable_target(record)
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
    if record is not None:
        kept = {
            row.name: {
                "agreement": row.agreement,
                "rounds_ns": [turn.samples_ns for turn in row.rounds if turn.counted],
            }
            for row in rows
        }
        content = {"size": size, "threads": threads, "environment": facts, "reasons": reasons}
        content["milliseconds_by_kind"] = profiles
        content["cores"] = {
            name: {"latency_ns": latency, "rounds": sorted(numbers)}
            for name, (latency, numbers) in groups.items()
        }
        content |= {"disturbed_turns": others, "rows": kept}
        write_text(record, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    run(benchmark)
