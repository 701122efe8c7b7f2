"""A field of a request that is an option of the command line too: name, help and limits at once."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from dabnet.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Option:
    """An option of the command line.

    Attributes:
        name: such as ``--batch``.
        help: one sentence; "" shows none.
        choices: the values that it takes; () takes any of its type.
        least, most: limits of a number, both included.
    """

    name: str
    help: str = ""
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


def option(default: T, name: str, help: str = "", **limits: Any) -> T:
    """Declare a field of a dataclass; ``limits`` are those of ``Option``."""
    declared: T = field(default=default, metadata={"option": Option(name, help, **limits)})
    return declared


def options_of(request: Any) -> dict[str, tuple[Option, Any]]:
    """Field → option and default, for a dataclass or an instance of it."""
    return {
        item.name: (item.metadata["option"], item.default)
        for item in fields(request)
        if "option" in item.metadata
    }
