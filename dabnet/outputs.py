"""The kinds of files that commands write. An output may replace a file of its own kind alone.

A kind is told from the content, so that ``--output`` with the name of a checkpoint, of a photo or
of a text is refused before work starts (``dabnet.files.writable_target``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MARK = "drawn by dabnet-toolkit"
"""In every picture and video of ours, by which it is told from photos and from other tools'."""

_ENDS = 1 << 16  # bytes of the start and of the end of a file that are looked at
_LARGEST_JSON = 1 << 28  # bytes


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        name: with its article, such as ``an ONNX file``.
        holds: tells from a regular, non-empty file whether it is one; may raise OSError.
    """

    name: str
    holds: Callable[[Path], bool]


def starting(name: str, pattern: bytes) -> Kind:
    """The kind of files whose start matches a regular expression."""
    found = re.compile(pattern, re.DOTALL)
    return Kind(name, lambda path: bool(found.match(_start_of(path))))


def json_of(name: str, *keys: str) -> Kind:
    """The kind of JSON files with these keys at the top."""
    return Kind(name, lambda path: {*keys} <= keys_of_json(path))


def keys_of_json(path: Path) -> set[str]:
    """The keys at the top of a JSON object; none of any other file, or of one above 256 MiB."""
    with path.open("rb") as file:
        if file.read(1) != b"{" or path.stat().st_size > _LARGEST_JSON:
            return set()
    try:
        return set(json.loads(path.read_bytes()))
    except (ValueError, RecursionError):
        return set()


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_ENDS)


def _is_marked(path: Path) -> bool:
    size = path.stat().st_size
    with path.open("rb") as file:
        ends = file.read(_ENDS)
        file.seek(max(0, size - _ENDS))
        ends += b"\n" + file.read(_ENDS)
    return MARK.encode() in ends


def _is_engine(path: Path) -> bool:
    beside = path.with_name(path.name + ".json")
    return bool(_ENGINE.holds(path)) or (beside.is_file() and MANIFEST.holds(beside))


def _is_timings(path: Path) -> bool:
    """TensorRT documents no form of its timing and runtime caches: they are binary, and nothing
    that is known."""
    known = (ONNX, ENGINE, _OTHER_BINARY)
    return b"\0" in _start_of(path) and not any(kind.holds(path) for kind in known)


# The version of the format is the first field of the message, then comes one of the others
# (onnx.proto, ModelProto).
ONNX = starting("an ONNX file", rb"\x08[\x01-\x1f][\x12\x1a\x22\x28\x32\x3a\x42\x72]")
_ENGINE = starting("a TensorRT engine", rb"[fv]trt")
MANIFEST = json_of("the manifest of an engine", "input", "output", "precision", "preprocessing")
ENGINE = Kind("a TensorRT engine", _is_engine)
CALIBRATION = json_of("a calibration of dabnet-export", "kind", "graph_sha256", "tensors")
CALIBRATION_CACHE = starting("a calibration cache of TensorRT", rb"TRT-[\d.]+-")
CACHE_ORIGIN = Kind(  # a manifest has these keys among others
    "the origin of a calibration cache",
    lambda path: keys_of_json(path) == {"graph_sha256", "calibration"},
)
TIMINGS = Kind("a cache of TensorRT", _is_timings)
BUDGET = json_of("the search for an accuracy budget", "key", "measured")
BUDGET_TABLE = starting("the table of an accuracy budget", rb"# INT8 within ")
VERIFICATION = json_of("a record of dabnet-export verify", "a", "b", "agreement")
RECORD = json_of("a record of dabnet-bench", "rows", "scenario", "environment")
PAGE = starting("a page of dabnet-bench", rb".{0,1000}<title>dabnet-bench")
COMPARISON = json_of("a comparison of dabnet-bench", "old", "new", "limits")
PEAKS = starting(
    "the measured peaks of machines", rb'\{\s*(\}|"[^"]*":\s*\{\s*"(device|bytes_per_s)":)'
)
STUDY = starting("the record of a study", rb'\{\s*"environment":')
PICTURE = Kind("a picture drawn by dabnet-toolkit", _is_marked)

# Zip (a checkpoint), pickle, PNG, JPEG, GIF, RIFF, TIFF, gzip, ELF, ISO media, Matroska.
_OTHER_BINARY = starting(
    "another file",
    rb"PK|\x80[\x02-\x05]|\x89PNG|\xff\xd8\xff|GIF8|RIFF|II\*|MM\0\*|\x1f\x8b|\x7fELF|.{4}ftyp|\x1aE\xdf",
)
