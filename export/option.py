"""A field of a request that is an option of the command line too: name, help and limits at once."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from dabnet.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Option:
    """An option of the command line.

    Attributes:
        help: one sentence; "" shows none.
        name: such as ``--batch``; "" is made from the name of the field.
        choices: the values that it takes; () takes any of its type.
        least, most: limits of a number, both included.
    """

    help: str = ""
    name: str = ""
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None

    def check(self, value: Any) -> None:
        """Raise ``InputError`` unless ``value`` is one of the choices, or within the limits."""
        if value is None:
            return
        if self.choices and value not in self.choices:
            raise InputError(f"{self.name} {value!r}", "one of " + ", ".join(self.choices))
        if self.least is not None and not value >= self.least:
            raise InputError(f"{self.name} {value}", f"at least {self.least:g}")
        if self.most is not None and not value <= self.most:
            raise InputError(f"{self.name} {value}", f"at most {self.most:g}")


def option(default: T, help: str = "", **more: Any) -> T:
    """Declare a field of a dataclass; ``more`` are attributes of ``Option``."""
    declared: T = field(default=default, metadata={"option": Option(help, **more)})
    return declared


def options_of(request: Any) -> dict[str, tuple[Option, Any]]:
    """Field → option and default, for a dataclass or an instance of it."""
    found = {}
    for item in fields(request):
        if asked := item.metadata.get("option"):
            name = asked.name or f"--{item.name.replace('_', '-')}"
            found[item.name] = (replace(asked, name=name), item.default)
    return found
