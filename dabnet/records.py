"""Dataclasses from JSON and back, with nothing taken for what it is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, get_args, get_origin

Hook = Callable[[Any, Any], Any]
_INT64 = 2**63


@lru_cache(maxsize=1)
def converter() -> Any:
    """cattrs, held to JSON's types: else it makes an int of "3" and a tuple of letters of "abc"."""
    from cattrs import Converter

    strict = Converter(forbid_extra_keys=True, detailed_validation=True)
    strict.register_structure_hook(int, _int)
    strict.register_structure_hook(float, _float)
    strict.register_structure_hook(str, _text)
    strict.register_structure_hook(bool, _bool)
    strict.register_structure_hook_factory(
        lambda kind: _is_of(kind, tuple), lambda kind: _tuple_hook(strict, kind)
    )
    strict.register_structure_hook_factory(
        lambda kind: _is_of(kind, dict), lambda kind: _dict_hook(strict, kind)
    )
    return strict


def _is_of(kind: Any, container: type) -> bool:
    origin: Any = get_origin(kind)
    return origin is container


def _int(value: Any, _: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= _INT64:
        raise ValueError(f"{_shown(value)} is no whole number of 64 bits")
    return value


def _float(value: Any, _: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError(f"{_shown(value)} is no number")
    return float(value)


def _bool(value: Any, _: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{_shown(value)} is neither true nor false")
    return value


def _text(value: Any, _: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{_shown(value)} is no text")
    value.encode()  # half of a surrogate pair cannot be printed
    return value


def _tuple_hook(strict: Any, kind: Any) -> Hook:
    parts = get_args(kind)
    each = parts[0] if parts[-1] is ... else None
    hooks = [strict.get_structure_hook(part) for part in parts if part is not ...]

    def hook(value: Any, _: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError(f"{_shown(value)} is no array")
        if each is None and len(value) != len(parts):
            raise ValueError(f"an array of {len(value)}, not {len(parts)}")
        if each is not None:
            return tuple(
                _collected(kind, enumerate(value), [each] * len(value), hooks * len(value))
            )
        return tuple(_collected(kind, enumerate(value), parts, hooks))

    return hook


def _dict_hook(strict: Any, kind: Any) -> Hook:
    _, part = get_args(kind)
    structure = strict.get_structure_hook(part)

    def hook(value: Any, _: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"{_shown(value)} is no object")
        count = len(value)
        made = _collected(kind, value.items(), [part] * count, [structure] * count)
        return dict(zip(value, made, strict=True))

    return hook


def _collected(
    kind: Any, items: Iterable[tuple[Any, Any]], parts: Iterable[Any], hooks: Iterable[Hook]
) -> list[Any]:
    """Structure each value; what fails is raised with its index or key, as cattrs does it."""
    from cattrs.errors import IterableValidationError, IterableValidationNote

    made, errors = [], []
    for (index, value), part, structure in zip(items, parts, hooks, strict=True):
        try:
            made.append(structure(value, part))
        except Exception as error:
            note = IterableValidationNote(f"@ {index}", index, part)
            # Not add_note, which Python 3.10 lacks: cattrs reads the attribute.
            error.__notes__ = [*getattr(error, "__notes__", []), note]  # type: ignore[attr-defined]
            errors.append(error)
    if errors:
        raise IterableValidationError("", errors, kind)
    return made


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:39]}…"


def faults(error: Exception) -> list[str]:
    """What is wrong and where, such as ``rows[0].name: 3 is no text``."""
    from cattrs import transform_error
    from cattrs.errors import ForbiddenExtraKeysError

    def said(fault: BaseException, _: Any) -> str:
        if isinstance(fault, KeyError):
            return "is missing"
        if isinstance(fault, ForbiddenExtraKeysError):
            return f"unknown key {min(fault.extra_fields)!r}"
        return str(fault) if isinstance(fault, ValueError) else "is no object"

    found = []
    for line in transform_error(error, format_exception=said):
        what, _, where = line.rpartition(" @ ")
        found.append(f"{where.removeprefix('$').lstrip('.') or 'at its top'}: {what}")
    return found
