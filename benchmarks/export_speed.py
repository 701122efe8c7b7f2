"""How fast an export for CPUs runs beside what its user would get without it.

    python benchmarks/export_speed.py --gains

Rows take turns in one process, in rounds whose order is drawn anew, on the same images; each gives
a uint8 image's class mask in FP32, and says on how many pixels it agrees with PyTorch:

- pytorch eager, torch.compile (BatchNorm folded, channels last): the checkpoint's own;
- plain export: `torch.onnx.export` on onnxruntime, nothing else;
- openvino: the plain export on OpenVINO's CPU plugin (extra `peers`);
- ort-cpu: `dabnet-export onnx --optimize-for ort-cpu` on onnxruntime;
- ort-cpu without X (--gains): what each graph pass is worth.

The last column is what a pass is worth in rows of --gains: how much faster ort-cpu is than they.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch
from export_profile import milliseconds_by_kind, profile_table
from in_process import turns_of
from input_options import input_options

from bench.machine.disturbance import DISTURBED_CORES, CpuWatch
from bench.machine.environment import describe_environment
from bench.record import Turn
from bench.statistics import latency, speed_ratio, verdict
from dabnet.checkpoint import load_checkpoint
from dabnet.console import CONTEXT, progress_bar, run
from dabnet.errors import BackendUnavailable
from dabnet.files import writable_target, write_text
from dabnet.models.image_to_mask import ImageToMask
from dabnet.runtime.onnxruntime_runner import OnnxRuntimeRunner
from dabnet.runtime.openvino_runner import OpenVinoRunner
from dabnet.runtime.runner import Runner, Uint8Array
from dabnet.runtime.torch_runner import TorchRunner
from export.export_spec import ExportSpec
from export.images import check_source
from export.onnx_export import export_onnx
from export.onnx_file import load_onnx, manifest_of

EAGER, COMPILED, PLAIN = "pytorch eager", "torch.compile", "plain export"
OPENVINO, OURS = "openvino", "ort-cpu"
IMAGES = 4  # inputs in turn, so that no cache of a result can flatter a row


@dataclass(frozen=True, slots=True)
class Row:
    """What one row gave."""

    name: str
    agreement: float
    rounds: list[Turn]


class Bench:
    """Opens the rows, exporting into a folder what they run."""

    def __init__(
        self, checkpoint: Path, data_dir: Path | None, size: tuple[int, int], threads: int, at: Path
    ) -> None:
        self._checkpoint, self._data_dir, self._at = checkpoint, data_dir, at
        self._size, self._threads = size, threads
        self._shape = (1, *size, 3)

    def openers(self, compiled: bool, gains: bool) -> dict[str, Callable[[], Runner]]:
        """The rows by name, in the order of the table."""
        rows: dict[str, Callable[[], Runner]] = {EAGER: self._eager}
        if compiled:
            rows[COMPILED] = self._compiled
        rows |= {PLAIN: self._plain, OPENVINO: self._openvino, OURS: self._ours}
        if gains:
            passes = manifest_of(load_onnx(self._exported(OURS)), OURS).passes
            for applied in passes:
                rows[f"{OURS} without {applied.name}"] = partial(self._ours, applied.name)
        return rows

    def profiles(self, images: list[Uint8Array]) -> dict[str, dict[str, float]]:
        """Where the time of the plain export and of ours goes."""
        files = {PLAIN: self._exported("portable"), OURS: self._exported(OURS)}
        return {
            name: milliseconds_by_kind(path, images, self._threads) for name, path in files.items()
        }

    def images(self) -> list[Uint8Array]:
        dataset = load_checkpoint(self._checkpoint).dataset
        source = check_source(dataset, self._data_dir, IMAGES, self._size)
        return [image[None].copy() for _, image in source]  # PyTorch wants to write

    def _module(self) -> ImageToMask:
        checkpoint = load_checkpoint(self._checkpoint)
        return ImageToMask(checkpoint.network(), checkpoint.preprocessing).eval()

    def _eager(self) -> Runner:
        return self._torch("eager")

    def _compiled(self) -> Runner:
        return self._torch("compiled")

    def _torch(self, mode: str) -> Runner:
        cpu = torch.device("cpu")
        return TorchRunner(self._module(), self._shape, cpu, self._threads, mode=mode)

    def _plain(self) -> Runner:
        return OnnxRuntimeRunner(self._exported("portable"), threads=self._threads)

    def _openvino(self) -> Runner:
        return OpenVinoRunner(self._exported("portable"), "fp32", self._threads)

    def _ours(self, without: str = "") -> Runner:
        return OnnxRuntimeRunner(self._exported(OURS, without), threads=self._threads)

    def _exported(self, target: str, without: str = "") -> Path:
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


def agreements(runners: dict[str, Runner], images: list[Uint8Array]) -> dict[str, float]:
    """Share of pixels on which each row's masks equal those of PyTorch."""
    expected = [runners[EAGER].infer(image) for image in images]
    return {
        name: float(np.mean([runner.infer(i) == e for i, e in zip(images, expected, strict=True)]))
        for name, runner in runners.items()
    }


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
    with TemporaryDirectory() as folder:
        bench = Bench(checkpoint, data_dir, size, threads, Path(folder))
        runners, reasons = {}, {}
        for name, opener in bench.openers(compiled, gains).items():
            try:
                runners[name] = opener()
            except BackendUnavailable as error:
                reasons[name] = str(error)
        images = bench.images()
        agrees = agreements(runners, images)
        watch = CpuWatch()
        with progress_bar("timing", rounds, unit="rounds") as step:
            timed = turns_of(runners, images, rounds, round_seconds, step)
        foreign = watch.foreign_cores()
        profiles = bench.profiles(images) if profile else {}
    rows = [Row(name, agrees[name], timed[name]) for name in runners]
    facts = describe_environment()
    click.echo(table(rows, reasons))
    click.echo(
        f"\n{checkpoint.name}, {size[0]}x{size[1]}, batch 1, host to host, FP32, {threads} threads,"
        f" {rounds} rounds of {round_seconds:g} s; {facts['processor']}, PyTorch"
        f" {torch.__version__}, ONNX Runtime {facts['onnxruntime']}"
    )
    if profiles:
        click.echo(f"\n{profile_table(profiles)}")
    if foreign is not None and foreign > DISTURBED_CORES:
        click.echo(f"DISTURBED: other processes used {foreign:.2f} cores; repeat it when quiet")
    if record is not None:
        kept = {
            row.name: {
                "agreement": row.agreement,
                "rounds_ns": [turn.samples_ns for turn in row.rounds],
            }
            for row in rows
        }
        content = {"size": size, "threads": threads, "environment": facts, "reasons": reasons}
        content["milliseconds_by_kind"] = profiles
        content |= {"foreign_cores": foreign, "rows": kept}
        write_text(record, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    run(benchmark)
