"""``dabnet-export calibration``: statistics of activations as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dabnet.console import CONTEXT, Size
from dabnet.data.labels import LABEL_SETS

target_option = click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="File to write."
)
file_argument = click.argument("file", type=click.Path(path_type=Path))


@click.group("calibration", context_settings=CONTEXT)
def calibration_group() -> None:
    """Collect what INT8 ranges are chosen from, once, and use it for any method and placement."""


@calibration_group.command("collect", context_settings=CONTEXT)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@target_option
@click.option("--size", type=Size(), default="512x1024", show_default=True)
@click.option("--batch", type=int, default=1, show_default=True, help="Images a call.")
@click.option(
    "--optimize-for",
    type=click.Choice(["portable", "ort-cpu", "ort-cuda", "tensorrt"]),
    default="portable",
    show_default=True,
    help="Runtime whose graph is calibrated: that of the later export.",
)
@click.option("--equalize", is_flag=True, help="Of the graph that --equalize exports.")
@click.option("--mask-dtype", type=click.Choice(["uint8", "int32"]), default="uint8")
@click.option(
    "--dataset",
    type=click.Choice(list(LABEL_SETS)),
    help="Classes and preprocessing of a checkpoint that carries none.",
)
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder of the data set; train is read."
)
@click.option(
    "--images",
    "folder",
    type=click.Path(path_type=Path),
    help="Any folder of pictures instead of the data set; not those that are scored.",
)
@click.option("--count", type=click.IntRange(1), default=48, show_default=True, help="Images.")
@click.option(
    "--skip-unreadable",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Images that may be passed over because they cannot be read.",
)
def collect_command(
    checkpoint: Path,
    output: Path,
    dataset: str | None,
    data_dir: Path | None,
    folder: Path | None,
    count: int,
    skip_unreadable: int,
    **spec: Any,
) -> None:
    """Run the FP32 graph of CHECKPOINT on training images and keep histograms of its tensors.

    Interrupted, it leaves OUTPUT.partial, and goes on from there when started again.
    """
    from dabnet.console import progress_bar
    from dabnet.data.images import Unreadable
    from export.int8.collect import collect_file
    from export.spec import ExportSpec

    unreadable = Unreadable(skip_unreadable)
    calibration = collect_file(
        checkpoint,
        output,
        ExportSpec(precision="int8", calibration_images=count, **spec),
        dataset=dataset,
        data_dir=data_dir,
        folder=folder,
        unreadable=unreadable,
        progress=progress_bar,
    )
    for reason in unreadable.reasons:
        click.echo(f"passed over: {reason}", err=True)
    _print_summary(calibration, output)


@calibration_group.command("show", context_settings=CONTEXT)
@file_argument
@click.option("--tensors", is_flag=True, help="Also the ranges of each tensor.")
def show_command(file: Path, tensors: bool) -> None:
    """Say what a calibration file is of, and which ranges each method takes from it."""
    from calibration.calibration_file import load_calibration

    calibration = load_calibration(file)
    _print_summary(calibration, file)
    if tensors:
        _print_tensors(calibration)


@calibration_group.command("merge", context_settings=CONTEXT)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@target_option
def merge_command(files: tuple[Path, ...], output: Path) -> None:
    """Add up the statistics of several files of one graph on different images."""
    from calibration.calibration_file import (
        load_calibration,
        merge_calibrations,
        save_calibration,
    )
    from dabnet.files import writable_target

    output = writable_target(output)
    total = merge_calibrations([load_calibration(file) for file in files])
    save_calibration(total, output)
    _print_summary(total, output)


@calibration_group.command("cache", context_settings=CONTEXT)
@file_argument
@target_option
@click.option("--tensorrt", "version", required=True, help="Version that reads it, such as 8.6.1.")
@click.option("--calibration-method", "method", default="mse", show_default=True)
@click.option(
    "--calibrator",
    type=click.Choice(["entropy", "minmax"]),
    default="entropy",
    show_default=True,
    help="Calibrator of TensorRT that will read it (--int8-calibrator).",
)
def cache_command(file: Path, output: Path, version: str, method: str, calibrator: str) -> None:
    """Write the ranges as a calibration cache of TensorRT 8 or 10.

    For an FP32 ONNX file of the same checkpoint, exported with --optimize-for tensorrt:
    dabnet-export trt model.onnx --int8-calibrator entropy --calibration-cache OUTPUT
    """
    from calibration.calibration_file import load_calibration
    from export.engine.caches import write_cache

    calibration = load_calibration(file)
    count = write_cache(calibration, output, version, method, calibrator)
    click.echo(f"{output}  ({count} tensors, {method})")


def _print_tensors(calibration: Any) -> None:
    from calibration.ranges import METHODS
    from dabnet.tables import row, table, terminal

    made = table("tensor", "min", "max", *METHODS)
    ranges = {method: calibration.ranges(method) for method in METHODS}
    for name, histogram in calibration.histograms.items():
        found = [histogram.minimum, histogram.maximum]
        found += [ranges[method][name] for method in METHODS]
        row(made, name, *(f"{value:.4g}" for value in found))
    terminal().print(made)


def _print_summary(calibration: Any, path: Path) -> None:
    subject = calibration.subject
    height, width = subject.size
    click.echo(f"{path}  ({path.stat().st_size / 1e6:.1f} MB)")
    click.echo(
        f"  {len(calibration.images)} images of {calibration.dataset} {calibration.split},"
        f" {len(calibration.histograms)} tensors"
    )
    click.echo(
        f"  checkpoint {subject.checkpoint_sha256[:12]}, {height}x{width},"
        f" for {subject.optimized_for}, graph {subject.graph_sha256[:12]}"
    )
