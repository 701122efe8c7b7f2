"""``dabnet-export inspect``: parse, read, print."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from dabnet.console import CONTEXT
from export.cli.options import FILE, unnamed_dataset_option


@click.command("inspect", context_settings=CONTEXT)
@click.argument("file", metavar="FILE", type=FILE)
@click.option("--layers", is_flag=True, help="List every layer; of a calibration, every range.")
@unnamed_dataset_option
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON instead.")
def inspect_command(file: Path, layers: bool, dataset: str | None, as_json: bool) -> None:
    """Describe FILE: a checkpoint, an ONNX file of any tool, an engine or a calibration.

    Manifest, inputs and outputs, precision of each layer.
    """
    from dabnet.tables import terminal
    from export.inspection import inspect_file, print_inspection

    found = inspect_file(file, dataset)
    if as_json:
        values = dataclasses.asdict(found)
        click.echo(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print_inspection(terminal(), found, layers)
