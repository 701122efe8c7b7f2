"""``dabnet-export inspect``: parse, read, print."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dabnet.console import CONTEXT, Size
from dabnet.data.labels import LABEL_SETS


@click.command("inspect", context_settings=CONTEXT)
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--layers", is_flag=True, help="List every layer.")
@click.option(
    "--size", type=Size(), help="For multiply-adds, where FILE leaves it open.  [default: 512x1024]"
)
@click.option(
    "--dataset", type=click.Choice(list(LABEL_SETS)), help="Of a checkpoint that names none."
)
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON instead.")
def inspect_command(
    file: Path, layers: bool, size: tuple[int, int] | None, dataset: str | None, as_json: bool
) -> None:
    """Say what FILE is: a checkpoint, an ONNX file of any tool, or an engine.

    Manifest, inputs and outputs, operators, precision of each layer, parameters, multiply-adds.
    """
    from dabnet.tables import terminal
    from export.inspection.artifact import inspect_artifact
    from export.inspection.report import print_inspection

    found = inspect_artifact(file, size, dataset)
    if as_json:
        click.echo(json.dumps(found.record(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print_inspection(terminal(), found, layers)
