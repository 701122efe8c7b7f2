"""The options that commands of ``dabnet-export`` share, and how they are checked together."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from dabnet.console import Command, Finite, Size, options
from dabnet.data.registry import DATASETS
from dabnet.errors import InputError
from export.spec import options_of

FILE = click.Path(path_type=Path)

unnamed_dataset_option = click.option(
    "--dataset", type=click.Choice(list(DATASETS)), help="Of a checkpoint that names none."
)
output_option = click.option("-o", "--output", type=FILE, required=True, help="File to write.")
source_options = options(
    click.option(
        "--dataset",
        type=click.Choice(list(DATASETS)),
        help="Classes, palette and preprocessing of a checkpoint that carries none.",
    ),
    click.option(
        "--data-dir",
        type=FILE,
        help="Folder of the data set: images to calibrate on (train) and to check with (val).",
    ),
)


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


def request_options(
    request: type, only: Collection[str] = (), without: Collection[str] = ()
) -> Callable[[Command], Command]:
    """Add the options of ``ExportSpec`` or ``BuildSpec`` to a command, by their fields' names."""
    made = []
    for name, (asked, default) in options_of(request).items():
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
            kind["type"] = _TYPES[request.__annotations__[name]]
        made.append(click.option(asked.name, name, help=asked.help or None, **kind))
    return options(*made)


_TYPES: dict[str, Any] = {
    "float | None": Finite(0),
    "int | None": int,
    "str | None": str,
    "Path | None": FILE,
    "tuple[int, int, int] | None": BatchSize(),
}


def refuse_typed(names: Iterable[str], what: str, expected: str, fix: str) -> None:
    """Raise InputError if a parameter of these names was typed, which has no effect on ``what``."""
    context = click.get_current_context()
    typed = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in names
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if typed:
        raise InputError(f"{', '.join(typed)} for {what}", expected, fix)
