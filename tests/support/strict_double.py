"""Classes that have the attributes of a list and no others, to read and to write."""

from __future__ import annotations

from collections.abc import Callable
from functools import partialmethod
from types import MethodType
from typing import Any


class Member:
    """A member of an enum; its integer is not that of the real enum, on purpose."""

    def __init__(self, owner: str, name: str, value: int) -> None:
        self.owner, self.name, self.value = owner, name, value

    def __int__(self) -> int:
        return self.value

    def __repr__(self) -> str:
        return f"{self.owner}.{self.name}"


class Unused:
    """A name that exists and has no behaviour; an instance may overwrite it as a property."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is None:
            return self
        raise NotImplementedError(f"the double has no behaviour for {self.name}")


def strict_class(name: str, names: list[str], members: dict[str, Any]) -> type:
    """A class with ``names`` only; the ``members`` that the version lacks are left out."""
    body: dict[str, Any] = {}
    for index, attribute in enumerate(sorted(names)):
        if attribute.isupper():
            body[attribute] = Member(name, attribute, index)
        elif attribute != "__init__":
            body[attribute] = _unbound(members.get(attribute, Unused(f"{name}.{attribute}")))

    def set_attribute(self: object, attribute: str, value: Any) -> None:
        if attribute not in names and not attribute.startswith("_"):
            raise AttributeError(f"{name!r} has no attribute {attribute!r} in this version")
        if "record" in members:
            members["record"](attribute, value)
        object.__setattr__(self, attribute, value)

    body["__setattr__"] = set_attribute
    if "__init__" in members:
        body["__init__"] = members["__init__"]
    return type(name, (), body)


def _unbound(member: Any) -> Any:
    """A method of _Behaviours as a function, which a class turns into a method of its own."""
    return partialmethod(_call, member) if isinstance(member, MethodType) else member


def _call(instance: object, method: MethodType, *arguments: Any) -> Any:
    return method(instance, *arguments)


def keeps(*names: str) -> Callable[..., None]:
    """An ``__init__`` that keeps its arguments as ``_name``."""

    def init(self: object, *arguments: Any) -> None:
        for name, argument in zip(names, arguments, strict=True):
            object.__setattr__(self, f"_{name}", argument)

    return init
