"""The one codec of JSON files: frozen dataclasses, strict in both directions.

A record that is misread gives a wrong table, and a wrong table is worse than none.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Generic, NoReturn, TypeVar

from annotated_types import Ge, Le, MaxLen, MinLen

from dabnet.errors import DabnetError, InputError, shortened
from dabnet.files import existing_file, write_text

T = TypeVar("T")
_SHORT = 96  # characters of a value that is written on one line

# Limits of a file, checked before it is parsed. One at the limit takes seconds and below 4 GB.
MOST_BYTES = 150_000_000
MOST_VALUES = 20_000_000  # by their commas
MOST_NESTS = 2_000_000  # arrays and objects
MOST_KEYS = 1_000_000  # by their colons

# Numbers and texts of any file. They are as large as sums and products of them allow.
Share = Annotated[float, Ge(0), Le(1)]
Change = Annotated[float, Ge(-1), Le(1)]
"""A difference of two shares."""
Count = Annotated[int, Ge(0), Le(2**53)]
Amount = Annotated[float, Ge(0), Le(1e30)]
Rate = Annotated[float, Ge(1), Le(1e30)]
"""Per second."""
Percent = Annotated[float, Ge(0), Le(100)]
Sha256 = Annotated[str, MinLen(64), MaxLen(64)]
"""Hexadecimal."""
Seconds = Annotated[float, Ge(0), Le(1e9)]
Side = Annotated[int, Ge(1), Le(2**20)]
"""Pixels of a height or a width."""
Byte = Annotated[int, Ge(0), Le(255)]
Name = Annotated[str, MaxLen(1000)]
Text = Annotated[str, MaxLen(20_000)]


@dataclass(frozen=True)
class Codec(Generic[T]):
    """One kind of JSON file.

    Refused is what exceeds ``MOST_BYTES`` or another limit of its extent, what is not UTF-8 or
    not JSON (NaN and infinity are not), arrays and objects nested 200 deep, a key that occurs
    twice, an integer beyond 64 bits, half of a surrogate pair, an unknown key, and a value of
    another type ("3" is not 3). A whole number is taken for a float, a field's default for a
    missing key.

    Attributes:
        kind: what the file holds: a frozen dataclass, or ``dict[str, ...]``. The limits of a value
            are written there as ``Share`` or ``Annotated[int, annotated_types.Ge(1)]``.
        noun: what an error calls the file, such as ``record``.
        writer: the command that writes it.
        remake: how to get another one, such as ``measure again with: dabnet-bench CHECKPOINT``.
        version: key and value that tell formats apart; None for a file without them.
        error: raised for a file that cannot be used.
        one_line_each: keys of arrays and objects of which each item is written on one line.
    """

    kind: type[T]
    noun: str
    writer: str
    remake: str
    version: tuple[str, int] | None = None
    error: type[DabnetError] = InputError
    one_line_each: tuple[str, ...] = ()

    def dump(self, value: T) -> str:
        """Return ``value`` as JSON and a newline; ValueError for a number that is not finite."""
        plain = json.loads(json.dumps(value, default=dataclasses.asdict, allow_nan=False))
        return self._layout(plain, "\n", False) + "\n"

    def write(self, value: T, path: str | Path) -> None:
        write_text(path, self.dump(value))

    def read(self, path: str | Path) -> T:
        """Read a file that ``write`` wrote, as ``parse`` does; InputError if there is none."""
        what = f"a {self.noun} that {self.writer} wrote"
        try:
            with existing_file(path, what).open("rb") as file:
                content = file.read(MOST_BYTES + 1)
        except OSError as error:
            raise InputError(f"{str(path)!r} cannot be read ({error.strerror})", what) from error
        return self.parse(content, repr(str(path)))

    def parse(self, text: str | bytes, source: str) -> T:
        """Read what ``dump`` returned (UTF-8); ``source`` names the file in the error.

        ``error`` is raised with the JSON path of the first fault, such as ``rows[0].name: ...``.
        """
        from pydantic import ValidationError

        try:
            text = text.decode() if isinstance(text, bytes) else text
            _check_extent(text)
            raw = json.loads(text, parse_int=_int64, object_pairs_hook=_unique_keys)
            checked = json.dumps(raw, ensure_ascii=False, allow_nan=False).encode()
            self._check_version(raw, source)
            del raw, text  # a large file would be three times in memory
            parsed: T = self._validator.validate_json(checked, strict=True, extra="forbid")
        except ValidationError as error:
            faults = error.errors(include_url=False)
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            self.refuse(source, _fault(faults[0]) + more, error)
        except _TooLarge as error:
            self.refuse(source, str(error), error)
        except ValueError as error:
            self.refuse(source, f"not JSON: {error}", error)
        except RecursionError as error:
            self.refuse(source, "its arrays and objects are nested too deep", error)
        return parsed

    def take(self, value: Any, source: str) -> T:
        """Read plain values that another file held, as strictly as ``parse`` reads a text."""
        try:
            text = json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            self.refuse(source, f"other values than texts and finite numbers: {error}", error)
        return self.parse(text, source)

    def refuse(self, source: str, fault: str, cause: BaseException | None = None) -> NoReturn:
        given = f"{source} holds no valid {self.noun}: {fault}"
        raise self.error(given, f"a {self.noun} that {self.writer} wrote", self.remake) from cause

    @cached_property
    def _validator(self) -> Any:
        from pydantic import TypeAdapter
        from pydantic_core import SchemaValidator

        return SchemaValidator(_fail_fast(TypeAdapter(self.kind).core_schema))

    def _check_version(self, raw: Any, source: str) -> None:
        if self.version is None or not isinstance(raw, dict):
            return  # the type of ``raw`` is checked by pydantic
        key, version = self.version
        if type(found := raw.get(key)) is not int:
            self.refuse(source, f"{key}: expected {version}, got {_shown(found)}")
        known: Any = self.kind
        if raw.keys().isdisjoint({f.name for f in dataclasses.fields(known)} - {key}):
            self.refuse(source, f"none of its keys, such as {_shown(min(raw))}, is known")
        if found != version:
            newer = "install the dabnet-toolkit that wrote it, or a later one, or "
            fix = (newer if found > version else "") + self.remake
            given = f"{source} holds a {self.noun} of {key} {found}"
            raise self.error(given, f"{key} {version}", fix)

    def _layout(self, value: Any, newline: str, one_line_each: bool) -> str:
        line = json.dumps(value, ensure_ascii=False)
        is_list = isinstance(value, list)
        scalars = is_list and not any(isinstance(item, (dict, list)) for item in value)
        if len(line) <= _SHORT or scalars or not isinstance(value, (dict, list)):
            return line
        lines = []
        for key, item in enumerate(value) if isinstance(value, list) else value.items():
            text = json.dumps(item, ensure_ascii=False)
            if not one_line_each:
                text = self._layout(item, newline + " ", key in self.one_line_each)
            lines.append(text if is_list else f"{json.dumps(key, ensure_ascii=False)}: {text}")
        body = f",{newline} ".join(lines)
        return f"{line[0]}{newline} {body}{newline}{line[-1]}"


class _TooLarge(ValueError):
    """A file beyond the limits."""


def _check_extent(text: str) -> None:
    if len(text) > MOST_BYTES:
        raise _TooLarge(f"more than {MOST_BYTES // 1_000_000} MB")
    if text.count(",") > MOST_VALUES:
        raise _TooLarge(f"more than {MOST_VALUES:,} values")
    if text.count("[") + text.count("{") > MOST_NESTS:
        raise _TooLarge(f"more than {MOST_NESTS:,} arrays and objects")
    if text.count(":") > MOST_KEYS:
        raise _TooLarge(f"more than {MOST_KEYS:,} keys")


def _int64(text: str) -> int:
    if len(text) <= 20 and -(2**63) <= int(text) < 2**63:
        return int(text)
    raise ValueError(f"{text[:40]} exceeds 64 bits")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {shortened(repr(twice), 60)} occurs twice")
    return found


def _fail_fast(schema: Any) -> Any:
    """A schema whose arrays end at their first fault: a list of millions takes gigabytes."""
    if isinstance(schema, list):
        return [_fail_fast(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _fail_fast(part) for key, part in schema.items() if key != "metadata"}
    return {**made, "fail_fast": True} if schema.get("type") in ("tuple", "list") else made


def _fault(error: Any) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]]
    where = "".join(parts).removeprefix(".") or "at its top"
    where = shortened(where, 100)
    unknown = "unknown key, perhaps of a later version"
    known = {"unexpected_keyword_argument": unknown, "missing": "missing"}
    if error["type"] in known:
        return f"{where}: {known[error['type']]}"
    if "recursion limit" in error["msg"]:
        return "its arrays and objects are nested too deep"
    said = error["msg"].replace("Input should be ", "expected ").removeprefix("Value error, ")
    return f"{where}: {said}, got {_shown(error['input'])}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:39]}…"
