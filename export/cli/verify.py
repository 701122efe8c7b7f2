"""``dabnet-export verify``: parse, compare, print."""

from __future__ import annotations

import dataclasses
import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dabnet.command_help import Command
from dabnet.console import (
    CONTEXT,
    FILE,
    MOST_IMAGES,
    Finite,
    Size,
    device_option,
    progress_bar,
    refuse_typed,
    say,
    trust_option,
)
from dabnet.device import AUTO
from dabnet.errors import InputError
from dabnet.given_options import GIVEN, OF_CHECKPOINTS, description_of, given_of, source_options

if TYPE_CHECKING:
    from dabnet.data.images import SizedImages
    from export.verify.layers import LayerReport
    from export.verify.masks import Verification
    from export.verify.sides import Side

BELOW_MINIMUM = 1  # exit code; 2 is bad input
MOST_TOLERANCE = 1000
DEFAULT_WORST = 4
DEFAULT_SCENES = 8


@click.command("verify", cls=Command, context_settings=CONTEXT)
@click.argument("a", metavar="A", type=FILE)
@click.argument("b", metavar="B", type=FILE)
@click.option(
    "--images",
    "folder",
    type=FILE,
    metavar="DIR",
    help="Pictures, also in subfolders.",
    show_default="toy street",
)
@click.option(
    "--limit",
    type=click.IntRange(1, MOST_IMAGES),
    help="Maximum number of images.",
    show_default="all; 8 scenes",
)
@click.option("--size", type=Size(), help="Of the images.", show_default="of B or A, or 512x1024")
@device_option("a GPU for engines, else the CPU")
@trust_option
@click.option("--layers", is_flag=True, help="The first tensor where two ONNX files part.")
@click.option(
    "--tolerance",
    type=Finite(0, MOST_TOLERANCE),
    default=1e-3,
    show_default=True,
    help="Relative error that --layers lets pass.",
)
@click.option("--output", type=FILE, metavar="DIR", help="Folder for pictures.")
@click.option(
    "--worst",
    type=click.IntRange(0, MOST_IMAGES),
    help="Worst images to draw there.",
    show_default="4",
)
@click.option(
    "--min-agreement",
    "minimum",
    type=Finite(0, 1),
    help="Exit with 1 below this share of equal pixels.",
)
@click.option("--json", "record", type=FILE, metavar="FILE", help="File for the record.")
@source_options
def verify_command(
    a: Path,
    b: Path,
    folder: Path | None,
    limit: int | None,
    size: tuple[int, int] | None,
    device: str,
    trust: bool,
    layers: bool,
    tolerance: float,
    output: Path | None,
    worst: int | None,
    minimum: float | None,
    record: Path | None,
    **values: Any,
) -> int:
    """Compare artifact B with A, the reference, on the same images.

    Each is a checkpoint, an ONNX file or an engine. The command counts equal pixels of their masks,
    the IoU of the masks for each class, and the differences of their logits and confidences where
    both have them.

    --dataset or --classes describes a file of another tool, or a public checkpoint.

    Exit code: 0; 1 where the agreement is below --min-agreement; 2 for bad input.
    """
    if worst is not None and output is None:
        expected = "a folder for the pictures"
        raise InputError("--worst without --output", expected, "add --output DIR")
    if not layers:
        refuse_typed(["tolerance"], "masks alone", "a comparison of layers", "add --layers")
    from dabnet.artifact import CHECKPOINT, Artifact
    from dabnet.lock import folder_held
    from export.verify.masks import verify
    from export.verify.report import save_worst
    from export.verify.sides import Side, common_size

    inputs = [file for path in (a, b) for file in Artifact.open(path).files]
    _check_outputs(record, output, inputs)
    given = given_of(values)
    kinds = {Artifact.open(path).kind for path in (a, b)}
    description = None if kinds == {CHECKPOINT} else description_of(size, given)
    chosen = None if device == AUTO else device
    asked = (given, description, chosen, trust)
    sides = Side(a, *asked), Side(b, *asked)
    described = [side.kind for side in sides if side.is_described]
    if not described:
        named = [name for name in GIVEN if name != "dataset"]
        refuse_typed(named, "these files", "a file without a manifest", "leave them out")
    if CHECKPOINT not in described:
        refuse_typed(OF_CHECKPOINTS, "these files", "a public checkpoint", "leave them out")
    if layers:
        _require_onnx(*sides)
    images = _images(folder, limit, common_size(*sides, size))
    if folder is not None:
        _keep_images(folder, images, output, record)
    with_confidence = any(side.has_confidence for side in sides)
    for side in sides:
        side.load(images.size, with_confidence and all(s.can_give_confidence for s in sides))
    with folder_held(output, "dabnet-export verify") if output else nullcontext():
        shown = (DEFAULT_WORST if worst is None else worst) if output else 0
        with progress_bar("comparing", len(images)) as step:
            found, pictures = verify(*sides, images, shown, step)
        for side in sides:
            side.close()
        report = _layers(*sides, images, tolerance) if layers else None
        written = save_worst(*sides, pictures, output) if output else []
    _tell(found, report, record, written)
    if minimum is not None and found.agreement < minimum:
        share = f"agreement {100 * found.agreement:.3f} %"
        say(f"{share} is below --min-agreement {100 * minimum:g} %", err=True)
        return BELOW_MINIMUM
    return 0


def _images(folder: Path | None, limit: int | None, size: tuple[int, int]) -> SizedImages:
    from dabnet.data.images import ImageFolder, SizedImages, images_or_scenes
    from dabnet.data.registry import DRAWN

    if folder is not None:
        return SizedImages.first(ImageFolder(folder), size, limit)
    return images_or_scenes(DRAWN, "val", None, limit or DEFAULT_SCENES, size)


def _check_outputs(record: Path | None, output: Path | None, inputs: list[Path]) -> None:
    from dabnet.files import writable_target, writable_targets
    from dabnet.outputs import PICTURE, VERIFICATION

    if record is not None:
        writable_target(record, *inputs, kind=VERIFICATION)
    if output is not None:
        found = output.glob("worst_*.png") if os.path.lexists(output) else ()
        writable_targets(output, dict.fromkeys((p.name for p in found), PICTURE), *inputs)


def _keep_images(
    folder: Path, images: SizedImages, output: Path | None, record: Path | None
) -> None:
    """Raise if an output would replace an image of ``folder``, or become one of the next run."""
    from dabnet.data.images import ImageFolder
    from dabnet.files import refuse_within, writable_target

    assert isinstance(images.dataset, ImageFolder)
    if record is not None:
        writable_target(record, *images.dataset.paths)
    if output is not None:
        refuse_within(output, folder)


def _require_onnx(*sides: Side) -> None:
    other = [f"the {side.kind} {str(side.path)!r}" for side in sides if side.kind != "onnx"]
    if other:
        expected = "two ONNX files, whose tensors can be read"
        fix = "export a checkpoint with: dabnet-export onnx CHECKPOINT"
        raise InputError(f"--layers with {' and '.join(other)}", expected, fix)


def _layers(a: Side, b: Side, images: SizedImages, tolerance: float) -> LayerReport:
    from export.onnx_file import load_onnx
    from export.verify.layers import compare_layers

    first = images[0]
    graph_a, graph_b = (load_onnx(side.path) for side in (a, b))
    given = (a.given(first.image), b.given(first.image))
    return compare_layers(graph_a, graph_b, first.name, given, tolerance, progress=progress_bar)


def _tell(
    found: Verification, report: LayerReport | None, record: Path | None, written: list[Path]
) -> None:
    from dabnet.files import write_text
    from dabnet.tables import terminal
    from export.verify.report import print_layers, print_verification

    print_verification(terminal(), found)
    if report is not None:
        print_layers(terminal(), report)
    if record is not None:
        values = found.record() | {"layers": dataclasses.asdict(report) if report else None}
        text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(record, text + "\n")
        written = [*written, record]
    if written:
        say("wrote " + ", ".join(map(str, written)))
