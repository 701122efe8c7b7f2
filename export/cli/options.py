"""The options that commands of ``dabnet-export`` share, and how they are checked together."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import click

from dabnet.command_help import under
from dabnet.console import FILE, AnyCommand, Finite, Size, options
from dabnet.device import AUTO, CUDA, Device
from dabnet.errors import InputError
from export.spec import Option, options_of

output_option = click.option(
    "-o", "--output", type=FILE, metavar="FILE", required=True, help="File to write."
)
data_option = click.option(
    "--data-dir", type=FILE, metavar="DIR", help="Data set, to calibrate on and check with."
)


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
) -> Callable[[AnyCommand], AnyCommand]:
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


def _option(asked: Option, name: str, kind: dict[str, Any]) -> Callable[[AnyCommand], AnyCommand]:
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
