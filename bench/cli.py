"""``dabnet-bench``: parse, measure, print the table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from dabnet import __version__
from dabnet.console import CONTEXT, Size, run
from dabnet.data.registry import DATASET_NAMES


@click.command(context_settings=CONTEXT)
@click.version_option(__version__)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--dataset",
    type=click.Choice(DATASET_NAMES),
    help="Images to score and time on.  [default: the checkpoint's]",
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the data set.")
@click.option("--split", type=click.Choice(["val", "test"]), default="val", show_default=True)
@click.option("--size", type=Size(), default="512x1024", show_default=True)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    help="What to measure, repeatable, such as onnxruntime-int8.  [default: all]",
)
@click.option("--scope", type=click.Choice(["host", "device"]), default="host", show_default=True)
@click.option("--rounds", type=int, default=10, show_default=True, help="Turns of each backend.")
@click.option("--round-seconds", type=click.FloatRange(0.01), default=1.0, show_default=True)
@click.option("--images", type=click.IntRange(1), help="Images to score.  [default: the split]")
@click.option("--calibration-images", type=click.IntRange(1), default=48, show_default=True)
@click.option(
    "--allow-overlap",
    is_flag=True,
    help="Score INT8 on images that calibrated it, and mark the row.  [default: an error]",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of PyTorch and ONNX Runtime.")
@click.option(
    "--cache-dir", type=click.Path(path_type=Path), default=".dabnet-cache", show_default=True
)
@click.option("--output", type=click.Path(path_type=Path), default="runs/bench", show_default=True)
@click.option("--pictures", type=click.IntRange(0), default=0, help="Overlay pictures to save.")
def bench_command(
    checkpoint: Path,
    dataset: str | None,
    data_dir: Path | None,
    split: str,
    size: tuple[int, int],
    backends: tuple[str, ...],
    scope: str,
    rounds: int,
    round_seconds: float,
    images: int | None,
    calibration_images: int,
    allow_overlap: bool,
    device: str,
    threads: int | None,
    cache_dir: Path,
    output: Path,
    pictures: int,
) -> None:
    """Measure accuracy and speed of CHECKPOINT on every backend, in one table.

    What is missing is exported into the cache folder. A backend that cannot run here is a row
    that says why. The record is written as bench.json, bench.csv and bench.md.
    """
    import torch

    from bench.benchmark import benchmark
    from bench.candidates import Workshop, check_names
    from bench.pictures import save_pictures
    from bench.report import write_report
    from bench.timing import Scenario
    from dabnet.checkpoint import load_checkpoint
    from dabnet.console import progress_bar
    from dabnet.data.registry import open_dataset
    from dabnet.files import writable_directory
    from dabnet.torch_device import torch_device
    from export.export_spec import ExportSpec

    names = check_names(backends)
    scenario = Scenario(scope=scope, rounds=rounds, round_seconds=round_seconds)
    spec = ExportSpec(size=size, calibration_images=calibration_images)
    loaded = load_checkpoint(checkpoint, dataset)
    images_set = open_dataset(loaded.dataset, split, data_dir, size)
    workshop = Workshop(
        checkpoint_path=checkpoint,
        checkpoint=loaded,
        spec=spec,
        data_dir=data_dir,
        cache=writable_directory(cache_dir),
        device=torch_device(device),
        threads=threads or torch.get_num_threads(),
        progress=progress_bar,
    )
    writable_directory(output)
    count = images or len(images_set)
    report, opened = benchmark(
        workshop, names, images_set, scenario, count, progress_bar, allow_overlap
    )
    scored = {name: candidate.scored for name, candidate in opened.items()}
    written = write_report(report, output)
    written += save_pictures(scored, images_set, size, pictures, output)
    for candidate in opened.values():
        candidate.close()
    _print_report(report, written)


def _print_report(report: Any, written: list[Path]) -> None:
    from rich.console import Console

    from bench.report import footnotes, reasons, terminal_table

    # Without a terminal (a pipe, a log) the table must not be folded to 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    console.print(terminal_table(report))
    for note in reasons(report) + footnotes(report):
        console.print(note, markup=False)
    console.print("wrote " + ", ".join(str(path) for path in written), markup=False)


def main() -> None:
    """Entry point of ``dabnet-bench``."""
    run(bench_command)
