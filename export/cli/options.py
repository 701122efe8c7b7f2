"""The options that commands of ``dabnet-export`` share, and how they are checked together."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from dabnet.console import Command, Size, options
from dabnet.data.labels import LABEL_SETS
from dabnet.errors import InputError
from export.option import options_of
from export.spec import ExportSpec

FILE = click.Path(path_type=Path)

output_option = click.option("-o", "--output", type=FILE, required=True, help="File to write.")
source_options = options(
    click.option(
        "--dataset",
        type=click.Choice(list(LABEL_SETS)),
        help="Classes, palette and preprocessing of a checkpoint that carries none.",
    ),
    click.option(
        "--data-dir",
        type=FILE,
        help="Folder of the data set: images to calibrate on (train) and to check with (val).",
    ),
)


def spec_options(
    only: Collection[str] = (), without: Collection[str] = ()
) -> Callable[[Command], Command]:
    """Add the options of ``ExportSpec`` to a command, which gets them by their fields' names.

    Args:
        only: names of fields; () takes all.
        without: names of fields to leave out.
    """
    made = []
    for name, (asked, default) in options_of(ExportSpec).items():
        if name in without or (only and name not in only):
            continue
        kind: dict[str, Any] = {"default": default, "show_default": default is not None}
        if asked.choices:
            kind["type"] = click.Choice(asked.choices)
        elif isinstance(default, bool):
            kind = {"is_flag": True}
        elif name == "size":
            kind |= {"type": Size(), "default": "{}x{}".format(*default)}
        elif isinstance(default, tuple):
            kind = {"multiple": True}
        elif isinstance(default, int):
            kind["type"] = int
        else:
            kind["type"] = _TYPES[ExportSpec.__annotations__[name]]
        made.append(click.option(asked.name, name, help=asked.help or None, **kind))
    return options(*made)


_TYPES = {"float | None": float, "str | None": str, "Path | None": FILE}


class BatchSize(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """BATCHxHEIGHTxWIDTH, the last two in pixels."""

    name = "NxHxW"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", value.strip())
        if match is None:
            self.fail(f"{value!r} is not a shape; expected BATCHxHEIGHTxWIDTH, such as 1x512x1024")
        return int(match[1]), int(match[2]), int(match[3])


build_options = options(
    click.option("--target", help="Card to build for without a GPU, such as sm86 (TensorRT-RTX)."),
    click.option(
        "--workspace-mib", type=click.IntRange(1), help="Limit of the builder's workspace."
    ),
    click.option("--product", type=click.Choice(["tensorrt", "tensorrt-rtx"])),
    click.option(
        "--min-shape",
        type=BatchSize(),
        help="Smallest input of an ONNX file with dynamic sides.  [default: batch 1, half the"
        " height and width of the best]",
    ),
    click.option(
        "--opt-shape",
        type=BatchSize(),
        help="Input that it is fastest at.  [default: the one it was exported at]",
    ),
    click.option(
        "--max-shape", type=BatchSize(), help="Largest input.  [default: each side twice the best]"
    ),
    click.option(
        "--hardware-compatible",
        type=click.Choice(["ampere-plus", "same-compute-capability"]),
        help="Other GPUs that are to run the engine (TensorRT).",
    ),
    click.option(
        "--version-compatible", is_flag=True, help="Later versions are to run it (TensorRT)."
    ),
    click.option(
        "--timing-cache",
        type=FILE,
        help="File of kernel timings, read and written: later builds are faster (TensorRT).",
    ),
    click.option(
        "--int8-calibrator",
        "calibrator",
        type=click.Choice(["entropy", "minmax"]),
        help="TensorRT 8 and 10 choose the INT8 ranges of an FP32 ONNX file themselves.",
    ),
    click.option(
        "--calibration-cache",
        type=FILE,
        help="File of the calibrator's ranges, read if it exists, written otherwise.",
    ),
)
"""Adds them to a command, which gets them by the names of ``BuildSpec``."""


def refuse_typed(names: Iterable[str], what: str, expected: str, fix: str) -> None:
    """Raise InputError if one of these parameters of the running command was typed.

    Args:
        names: of the parameters.
        what: the argument with which they have no effect, for the error.
        expected, fix: as of ``InputError``.
    """
    context = click.get_current_context()
    typed = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in names
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if typed:
        raise InputError(f"{', '.join(typed)} for {what}", expected, fix)
