"""``dabnet-export calibration``: statistics of activations as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dabnet.command_help import Command, under
from dabnet.console import CONTEXT, FILE, MOST_IMAGES, progress_bar, refuse_typed, say
from dabnet.errors import InputError
from dabnet.given_options import given_of, source_options
from export.cli.options import data_option, output_option, request_options
from export.engine.spec import CALIBRATORS
from export.spec import ExportSpec

if TYPE_CHECKING:
    from calibration.calibration_file import Calibration

CACHE_OPTIONS = ("version", "method", "calibrator")


@click.command("calibration", cls=Command, context_settings=CONTEXT)
@click.argument("sources", nargs=-1, required=True, type=FILE)
@output_option
@data_option
@request_options(ExportSpec, only=("size", "optimize_for", "mask_dtype", "batch"))
@click.option(
    "--images",
    "folder",
    type=FILE,
    metavar="DIR",
    help="Any pictures instead, but not those to score.",
)
@click.option(
    "--count",
    type=click.IntRange(1, MOST_IMAGES),
    default=48,
    show_default=True,
    help="Images to collect on.",
)
@click.option(
    "--skip-unreadable",
    type=click.IntRange(0, MOST_IMAGES),
    default=0,
    show_default=True,
    help="Maximum number of broken files to skip.",
)
@under(
    "A cache for TensorRT (-o FILE.cache)",
    click.option("--tensorrt", "version", help="Its version, such as 8.6.1."),
    click.option(
        "--calibration-method", "method", default="mse", show_default=True, help="Its ranges."
    ),
    click.option(
        "--calibrator",
        type=click.Choice(CALIBRATORS),
        default="entropy",
        show_default=True,
        help="Its --int8-calibrator.",
    ),
)
@source_options
def calibration_command(
    sources: tuple[Path, ...],
    output: Path,
    version: str | None,
    method: str,
    calibrator: str,
    **collecting: Any,
) -> None:
    """Collect the statistics of INT8 ranges in a file.

    One SOURCE that is a checkpoint: its FP32 graph is run on training images. Interrupted, it
    leaves OUTPUT.partial, and goes on from there when started again. SOURCES that are calibration
    files of one graph on different images are added up.

    An OUTPUT that ends in .cache holds the ranges for TensorRT's calibrator, to be used with a
    portable FP32 ONNX file of the same checkpoint: dabnet-export trt model.onnx --int8-calibrator
    entropy --calibration-cache OUTPUT
    """
    from calibration.calibration_file import is_calibration, save_calibration
    from dabnet.lock import file_held
    from export.collect import merged
    from export.engine.caches import check_cache, write_cache

    partial = _checked_outputs(output, sources)
    if output.suffix != ".cache":
        fix = "leave them out, or end the output in .cache"
        refuse_typed(CACHE_OPTIONS, f"the output {str(output)!r}", "a calibration cache", fix)
    elif version is None:
        given = f"no TensorRT version for the cache {str(output)!r}"
        fix = "add --tensorrt VERSION, such as 8.6.1"
        raise InputError(given, "the version that reads it", fix)
    collects = len(sources) == 1 and not is_calibration(sources[0])
    if not collects:
        fix = "leave them out, or collect again from the checkpoint"
        refuse_typed(collecting, "calibration files", "a checkpoint, which is run with them", fix)
    elif version is not None:
        check_cache(collecting["optimize_for"], version, method)  # before minutes of work
    with file_held(output, "dabnet-export calibration"):
        calibration = _collected(sources[0], partial, **collecting) if collects else merged(sources)
        if version is not None:
            count = write_cache(calibration, output, version, method, calibrator)
            say(f"{output}  ({count} tensors, {method})")
        else:
            save_calibration(calibration, output)
            _print_calibration(calibration, output)
        if collects:
            partial.unlink(missing_ok=True)


def _checked_outputs(output: Path, sources: tuple[Path, ...]) -> Path:
    """Check all that is written, and return the file that keeps the statistics so far."""
    from dabnet import outputs
    from dabnet.files import writable_target
    from export.engine.caches import cache_origin_path

    if output.suffix == ".cache":
        writable_target(cache_origin_path(output), *sources, kind=outputs.CACHE_ORIGIN)
        writable_target(output, *sources, kind=outputs.CALIBRATION_CACHE)
    else:
        writable_target(output, *sources, kind=outputs.CALIBRATION)
    partial = output.with_name(output.name + ".partial")
    return writable_target(partial, *sources, kind=outputs.CALIBRATION)


def _collected(
    checkpoint: Path, partial: Path, *, count: int, skip_unreadable: int, **asked: Any
) -> Calibration:
    from dabnet.data.images import Unreadable
    from export.collect import collected

    unreadable = Unreadable(skip_unreadable)
    data = {"given": given_of(asked)} | {name: asked.pop(name) for name in ("data_dir", "folder")}
    spec = ExportSpec(precision="int8", calibration_images=count, **asked)
    data |= {"unreadable": unreadable, "progress": progress_bar}
    calibration = collected(checkpoint, partial, spec, **data)
    for reason in unreadable.reasons:
        say(f"passed over: {reason}", err=True)
    return calibration


def _print_calibration(calibration: Calibration, path: Path) -> None:
    subject = calibration.subject
    height, width = subject.size
    say(f"{path}  ({path.stat().st_size / 1e6:.1f} MB)")
    say(
        f"  {len(calibration.images)} images of {calibration.dataset} {calibration.split},"
        f" {len(calibration.histograms)} tensors"
    )
    say(
        f"  checkpoint {subject.checkpoint_sha256[:12]}, {height}x{width},"
        f" for {subject.optimized_for}, graph {subject.graph_sha256[:12]}"
    )
