"""The options that commands of ``dabnet-export`` share, and how they are checked together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dabnet.command_help import under
from dabnet.console import FILE, Command, Dilations, Factors, Finite, Size, options
from dabnet.data.registry import DATASETS
from dabnet.device import AUTO, CUDA, Device
from dabnet.errors import InputError
from dabnet.given import VOID, Given
from dabnet.models import NETWORKS
from export.spec import Option, options_of

if TYPE_CHECKING:
    from dabnet.artifact import Description

output_option = click.option(
    "-o", "--output", type=FILE, metavar="FILE", required=True, help="File to write."
)
data_option = click.option(
    "--data-dir", type=FILE, metavar="DIR", help="Data set, to calibrate on and check with."
)


class Channels(Factors):
    """Three numbers, of R, G and B."""

    name = "R,G,B"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        numbers = super().convert(value, param, ctx)
        if len(numbers) != 3:
            expected = "three numbers, such as 123.7,116.3,103.5"
            self.fail(f"{value!r} is not R,G,B; expected {expected}", param, ctx)
        return numbers


# What ``--dataset`` and ``--model`` do not say of a file (``dabnet.given``).
FOREIGN = "Files that do not describe themselves"
described_options = under(
    FOREIGN,
    click.option(
        "--classes", type=FILE, metavar="FILE", help="Classes, 'name' or 'R G B name' per line."
    ),
    click.option("--void", type=click.Choice(VOID), help="Drop this output, which is no class."),
    click.option(
        "--dilations", type=Dilations(), help="Of a checkpoint.", show_default="published ones"
    ),
    click.option(
        "--mean", type=Channels(), help="(image - mean) * scale.", show_default="published"
    ),
    click.option("--scale", type=Channels(), help="Of 0 to 255.", show_default="1,1,1"),
)
source_options = under(
    FOREIGN,
    click.option(
        "--dataset", type=click.Choice(list(DATASETS)), help="Its classes and preprocessing"
    ),
    click.option("--model", type=click.Choice(list(NETWORKS)), help="Its network"),
    described_options,
)

OF_CHECKPOINTS = ("model", "void", "dilations")
"""Options that mean nothing for an ONNX file or an engine."""
GIVEN = tuple(item.name for item in fields(Given))


def given_of(values: dict[str, Any]) -> Given:
    """Take the ``source_options`` out of a command's parameters."""
    return Given(**{name: values.pop(name) for name in GIVEN})


def description_of(size: tuple[int, int] | None, given: Given) -> Description | None:
    """The description of a file without a manifest; None if none of its options was given."""
    from dabnet.artifact import describe

    said = {name: getattr(given, name) for name in GIVEN if name not in OF_CHECKPOINTS}
    return describe(size=size, **said) if any(said.values()) else None


def building_gpu(device: str, target: str | None) -> int:
    """The number of the GPU that builds an engine; InputError if the build takes none."""
    chosen = Device(CUDA) if device == AUTO else Device.parse(device)
    if target and device != AUTO and chosen.is_gpu:
        given = f"--device {device} with --target {target}"
        raise InputError(given, "a build without a GPU", "leave one of them out")
    if not target and not chosen.is_gpu:
        fix = "to build without a GPU, add --target sm86 or the like (TensorRT-RTX)"
        raise InputError(f"--device {device} for an engine", "the GPU that builds and runs it", fix)
    return chosen.index


class BatchSize(Size):
    """BATCHxHEIGHTxWIDTH, the last two in pixels."""

    name = "NxHxW"
    numbers = 3
    expected = "BATCHxHEIGHTxWIDTH, such as 1x512x1024"


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
        made.append(_option(asked, name, kind))
    return options(*made)


def _option(asked: Option, name: str, kind: dict[str, Any]) -> Callable[[Command], Command]:
    """The option of a request's field, under its heading."""
    if asked.shown:
        kind["show_default"] = asked.shown
    made = click.option(asked.name, name, help=asked.help or None, **kind)
    return under(asked.under, made) if asked.under else made


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
