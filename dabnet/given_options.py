"""The options by which a user describes a file that carries no description (``dabnet.given``)."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from dabnet.command_help import under
from dabnet.console import FILE, Dilations, Factors
from dabnet.data.registry import DATASETS
from dabnet.given import VOID, Given
from dabnet.models import NETWORKS

if TYPE_CHECKING:
    from dabnet.artifact import Description


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
