"""What can be wrong with any file, and with any JSON text."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NOBODY = 65534  # user id


def cut(data: bytes, at: int | float) -> bytes:
    """The first ``at`` bytes, or that share of them."""
    return data[: int(at * len(data)) if isinstance(at, float) else at]


def flipped(data: bytes, seed: int, count: int = 1) -> bytes:
    """``data`` with ``count`` random bits flipped."""
    chooser, changed = random.Random(seed), bytearray(data)
    for _ in range(count):
        changed[chooser.randrange(len(changed))] ^= 1 << chooser.randrange(8)
    return bytes(changed)


def weights(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Change the bytes of the largest tensor of an ONNX file; its manifest stays."""

    def damage(path: Path) -> None:
        import onnx

        model = onnx.load(path)
        tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
        tensor.raw_data = change(tensor.raw_data)
        onnx.save(model, path)

    return damage


def no_files() -> Iterator[tuple[str, Callable[[Path], None], int | None]]:
    """Yield (name, what makes it at a path, user who reads it): no file, or one of no content."""
    yield "missing", lambda path: None, None
    yield "empty", lambda path: path.write_bytes(b"") and None, None
    yield "a directory", Path.mkdir, None
    yield "a link to itself", lambda path: path.symlink_to(path.name), None
    yield "a link to nothing", lambda path: path.symlink_to("nowhere"), None
    yield "a FIFO", os.mkfifo, None
    yield "/dev/zero", lambda path: path.symlink_to("/dev/zero"), None
    yield "/dev/null", lambda path: path.symlink_to("/dev/null"), None

    def locked(path: Path) -> None:
        path.write_bytes(b"x" * 100)
        path.chmod(0)
        for folder in list(path.parents)[:3]:
            folder.chmod(0o755)

    yield "unreadable", locked, NOBODY


def texts() -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of what is not the JSON that is expected."""
    yield "[", b"["
    yield "null", b"null"
    yield "a number", b"1"
    yield "a list", b"[]"
    yield "an object", b"{}"
    yield "not UTF-8", b'{"a": "\xff\xfe"}'
    yield "UTF-16", '{"a": 1}'.encode("utf-16")
    yield "NUL bytes", bytes(5000)
    yield "random bytes", random.Random(0).randbytes(5000)
    yield "arrays 100000 deep", b"[" * 100_000
    yield "objects 100000 deep", b'{"a":' * 100_000
    yield "closed arrays 100000 deep", b"[" * 100_000 + b"]" * 100_000
    yield "an integer of 100000 digits", b"9" * 100_000
    yield "50 MB of text", b'"' + b"x" * 50_000_000 + b'"'


WRONG: dict[str, Any] = {
    "null": None,
    "true": True,
    "-1": -1,
    "1.5": 1.5,
    "10**30": 10**30,
    "text": "x",
    "a list": [1, "x", None],
    "an object": {"a": 1},
    "NaN": float("nan"),
    "infinity": float("inf"),
    "half a surrogate pair": "\ud800",
    "ESC": "\x1b[31m",
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value within; of lists and maps the first two items."""
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value[:2]):
            yield from places(item, (*path, index))
    if path:
        yield path


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of ``value`` with ``new`` at ``path``."""
    changed = copy.deepcopy(value)
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = new
    return changed


def without(value: Any, path: tuple[Any, ...]) -> Any:
    """A copy of ``value`` without what is at ``path``."""
    changed = copy.deepcopy(value)
    at = changed
    for key in path[:-1]:
        at = at[key]
    del at[path[-1]]
    return changed


def dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def wrong_values(
    value: Any, per_place: int = 2, seed: int = 0
) -> Iterator[tuple[str, tuple[Any, ...], Any]]:
    """Yield (name, path, document) with a wrong value at each place, ``per_place`` kinds of it."""
    chooser = random.Random(seed)
    for path in places(value):
        for kind in chooser.sample(sorted(WRONG), per_place):
            yield f"{dotted(path)} is {kind}", path, put(value, path, WRONG[kind])


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True)
