"""The one codec of JSON files: frozen dataclasses, strict in both directions.

A file is read only if it is exactly what its dataclass says: a record that is misread gives a wrong
table, and a wrong table is worse than none.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from dabnet.errors import DabnetError, InputError
from dabnet.files import existing_file, write_text

T = TypeVar("T")
_SHORT = 96  # characters of a value that is written on one line


@dataclass(frozen=True)
class Codec(Generic[T]):
    """One kind of JSON file.

    Refused is what is not UTF-8 or not JSON (NaN and infinity are not), a key that occurs twice, an
    integer beyond 64 bits, half of a surrogate pair, an unknown key, and a value of another type
    ("3" is not 3). A whole number is taken for a float, a field's default for a missing key.

    Attributes:
        kind: what the file holds: a frozen dataclass, or ``dict[str, ...]``. The limits of a value
            are written there as ``Annotated[int, annotated_types.Ge(1)]``.
        noun: what an error calls the file, such as ``record``.
        writer: the command that writes it.
        remake: how to get another one, such as ``measure again with: dabnet-bench CHECKPOINT``.
        version: key and value that tell formats apart; None for a file without them.
        error: what is raised for a file that cannot be used.
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
        """Return ``value`` as JSON, ended by a newline; ValueError for a number that is not finite.

        Short values, arrays of scalars and each item of ``one_line_each`` are one line.
        """
        plain = json.loads(json.dumps(value, default=dataclasses.asdict, allow_nan=False))
        return self._layout(plain, "\n", False) + "\n"

    def write(self, value: T, path: str | Path) -> None:
        """Write ``dump(value)`` to ``path`` atomically."""
        write_text(path, self.dump(value))

    def read(self, path: str | Path) -> T:
        """Read a file that ``write`` wrote: as ``parse``, and ``InputError`` for no such file."""
        return self.parse(existing_file(path, self._expected).read_bytes(), repr(str(path)))

    def parse(self, text: str | bytes, source: str) -> T:
        """Read what ``dump`` returned (UTF-8); ``source`` names the file in the error.

        Raises:
            DabnetError: of the class ``error``: damaged, foreign, or of another format, in one line
                with the JSON path of the first fault, such as ``rows[0].name: ...``.
        """
        from pydantic import ValidationError

        try:
            text = text.decode() if isinstance(text, bytes) else text
            raw = json.loads(text, parse_int=_int64, object_pairs_hook=_unique_keys)
            checked = json.dumps(raw, ensure_ascii=False, allow_nan=False).encode()
            self._check_version(raw, source)
            parsed: T = self._adapter.validate_json(checked, strict=True, extra="forbid")
        except ValidationError as error:
            faults = error.errors(include_url=False)
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            self.refuse(source, _fault(faults[0]) + more, error)
        except (ValueError, RecursionError) as error:
            self.refuse(source, f"not JSON: {error}", error)
        return parsed

    def refuse(self, source: str, fault: str, cause: BaseException | None = None) -> NoReturn:
        """Raise that ``source`` is unusable because of ``fault``."""
        raise self.error(
            f"{source} holds no valid {self.noun}: {fault}", self._expected, self.remake
        ) from cause

    @cached_property
    def _adapter(self) -> Any:
        from pydantic import TypeAdapter

        return TypeAdapter(self.kind)

    @property
    def _expected(self) -> str:
        return f"a {self.noun} that {self.writer} wrote"

    def _check_version(self, raw: Any, source: str) -> None:
        if self.version is None or not isinstance(raw, dict):
            return  # the type of ``raw`` is checked by pydantic
        key, version = self.version
        found = raw.get(key)
        if type(found) is not int:
            self.refuse(source, f"{key}: expected {version}, got {_shown(found)}")
        if raw.keys().isdisjoint(_fields(self.kind) - {key}):
            self.refuse(source, f"none of its keys, such as {_shown(min(raw))}, is known")
        if found != version:
            newer = "install the dabnet-toolkit that wrote it, or a later one, or "
            raise self.error(
                f"{source} holds a {self.noun} of {key} {found}",
                f"{key} {version}",
                (newer if found > version else "") + self.remake,
            )

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


def _fields(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _int64(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"{text[:40]} exceeds 64 bits")
    return int(text)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} occurs twice")
    return dict(pairs)


def _fault(error: Any) -> str:
    """One of pydantic's errors as ``path: expected ..., got ...``."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]]
    where = "".join(parts).removeprefix(".") or "at its top"
    if error["type"] == "unexpected_keyword_argument":
        return f"{where}: unknown key"
    if error["type"] == "missing":
        return f"{where}: missing"
    said = error["msg"].replace("Input should be ", "expected ").removeprefix("Value error, ")
    return f"{where}: {said}, got {_shown(error['input'])}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:39]}…"
