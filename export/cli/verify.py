"""``dabnet-export verify``: parse, compare, print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from dabnet.console import CONTEXT, Size, progress_bar
from dabnet.data.labels import LABEL_SETS
from dabnet.errors import InputError

BELOW_MINIMUM = 1  # exit code; 2 is bad input
DEFAULT_WORST = 4
DEFAULT_SCENES = 8


@click.command("verify", context_settings=CONTEXT)
@click.argument("a", metavar="A", type=click.Path(path_type=Path))
@click.argument("b", metavar="B", type=click.Path(path_type=Path))
@click.option(
    "--images",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of pictures, searched with its subfolders.  [default: toy street scenes]",
)
@click.option(
    "--limit", type=click.IntRange(1), help="Images to look at.  [default: all; scenes 8]"
)
@click.option("--size", type=Size(), help="[default: that of B, or of A, or 512x1024]")
@click.option(
    "--dataset", type=click.Choice(list(LABEL_SETS)), help="Of a checkpoint that names none."
)
@click.option("--layers", is_flag=True, help="Find the first tensor where two ONNX graphs part.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    default=1e-3,
    show_default=True,
    help="Relative error above which --layers says that a tensor differs.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Folder for pictures.")
@click.option("--worst", type=click.IntRange(0), help="Worst images to draw there.  [default: 4]")
@click.option(
    "--min-agreement",
    "minimum",
    type=click.FloatRange(0, 1),
    help="Exit with 1 where the mean share of equal pixels is below this.",
)
@click.option("--json", "record", type=click.Path(path_type=Path), help="File for the record.")
def verify_command(
    a: Path,
    b: Path,
    folder: Path | None,
    limit: int | None,
    size: tuple[int, int] | None,
    dataset: str | None,
    layers: bool,
    tolerance: float,
    output: Path | None,
    worst: int | None,
    minimum: float | None,
    record: Path | None,
) -> int:
    """Compare artifact B with A, the reference, on the same images.

    Each is a checkpoint, an ONNX file or an engine. Counted are equal pixels of their masks, the
    IoU of the masks for each class, and the difference of their logits where both have them.

    Exit code: 0; 1 where the agreement is below --min-agreement; 2 for bad input.
    """
    if worst is not None and output is None:
        raise InputError(
            "--worst without --output", "a folder for the pictures", "add --output DIR"
        )
    from dabnet.files import writable_directory, writable_target
    from export.verify.masks import verify
    from export.verify.report import save_worst
    from export.verify.sides import common_size, declare, open_any

    if record is not None:
        writable_target(record)
    sides = declare(a, dataset), declare(b, dataset)
    if layers:
        _require_onnx(sides)
    images = _images(folder, limit, common_size(*sides, size))
    opened_a, opened_b = (open_any(side, images.size) for side in sides)
    if output is not None:
        writable_directory(output)
    drawn = 0 if output is None else DEFAULT_WORST if worst is None else worst
    with progress_bar("comparing", len(images)) as step:
        found, pictures = verify(opened_a, opened_b, images, drawn, step)
    opened_a.close()
    opened_b.close()
    report = _layers(sides, images, tolerance) if layers else None
    written = [] if output is None else save_worst(*sides, pictures, output)
    _tell(found, report, record, written)
    if minimum is not None and found.agreement < minimum:
        click.echo(
            f"agreement {100 * found.agreement:.3f} % is below --min-agreement {100 * minimum:g} %",
            err=True,
        )
        return BELOW_MINIMUM
    return 0


def _images(folder: Path | None, limit: int | None, size: tuple[int, int]) -> Any:
    from dabnet.data.images import ImageFolder, SizedImages, check_source

    if folder is not None:
        return SizedImages.first(ImageFolder(folder), size, limit)
    return check_source("toy-street", None, limit or DEFAULT_SCENES, size)


def _require_onnx(sides: Sequence[Any]) -> None:
    other = [f"the {side.kind} {str(side.path)!r}" for side in sides if side.kind != "onnx"]
    if other:
        raise InputError(
            f"--layers with {' and '.join(other)}",
            "two ONNX files, whose tensors can be read",
            "export a checkpoint with: dabnet-export onnx CHECKPOINT",
        )


def _layers(sides: Sequence[Any], images: Any, tolerance: float) -> Any:
    import onnx_ir as ir

    from export.onnx_file import load_onnx
    from export.verify.layers import compare_layers
    from export.verify.sides import given

    first = images[0]
    a, b = (ir.from_proto(load_onnx(side.path)) for side in sides)
    given_a, given_b = (given(side, first.image) for side in sides)
    return compare_layers(a, b, first.name, (given_a, given_b), tolerance, progress=progress_bar)


def _tell(found: Any, report: Any, record: Path | None, written: list[Path]) -> None:
    """Print what was found and write the record."""
    from dabnet.files import write_text
    from dabnet.tables import terminal
    from export.verify.report import print_layers, print_verification

    console = terminal()
    print_verification(console, found)
    if report is not None:
        print_layers(console, report)
    if record is not None:
        values = found.record() | {"layers": report.record() if report else None}
        text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(record, text + "\n")
        written = [*written, record]
    if written:
        click.echo("wrote " + ", ".join(str(path) for path in written))
