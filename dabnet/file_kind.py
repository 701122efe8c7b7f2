"""The kind of a file and the command that takes it, for the errors of other commands."""

from __future__ import annotations

import json
from pathlib import Path

from dabnet.errors import InputError
from dabnet.files import existing_file
from dabnet.records import MOST_BYTES, MOST_NESTS, MOST_VALUES
from dabnet.runtime.manifest import engine_manifest_path

CHECKPOINT, ONNX, ENGINE = "checkpoint", "onnx", "engine"
RECORD, CALIBRATION, MANIFEST = "record", "calibration", "manifest"
UNKNOWN = "unknown"  # a checkpoint, which has no suffix of its own, or any other file

ENGINE_SUFFIXES = (".engine", ".plan", ".trt")

# First bytes of a serialised engine: of TensorRT (so Torch-TensorRT tells one from text), and of
# TensorRT-RTX (1.7.1).
_ENGINE_STARTS = (b"ftrt", b"vtrt")

_KEYS = {
    RECORD: {"rows", "scenario", "environment"},
    CALIBRATION: {"kind", "graph_sha256", "tensors"},
    MANIFEST: {"input", "output", "precision", "preprocessing"},
}
"""Keys at the top of the JSON files that commands read."""


def kind_of(path: Path) -> str:
    """Tell what ``path`` is by its suffix, its first bytes or the manifest beside it, or its keys.

    Raises:
        InputError: there is no such file, or it is empty.
    """
    path = existing_file(path, "a checkpoint, an ONNX file or an engine")
    if (suffix := path.suffix.lower()) == ".onnx":
        return ONNX
    if suffix in ENGINE_SUFFIXES or engine_manifest_path(path).is_file():
        return ENGINE
    with path.open("rb") as file:
        if file.read(4) in _ENGINE_STARTS:
            return ENGINE
    keys = _keys_of_json(path)
    return next((kind for kind, needed in _KEYS.items() if needed <= keys), UNKNOWN)


def refuse_other(path: Path, *kinds: str, expected: str) -> None:
    """Raise ``InputError`` if ``path`` is known to be of another kind than ``kinds``."""
    kind = kind_of(path)
    if kind in (UNKNOWN, *kinds):
        return
    inspect = f"describe it with: dabnet-export inspect {path}"
    what, fix = {
        ONNX: ("an ONNX file", inspect),
        ENGINE: ("a TensorRT engine", inspect),
        RECORD: ("a record of dabnet-bench", f"print it with: dabnet-bench report {path}"),
        CALIBRATION: ("a calibration of dabnet-export", inspect),
        MANIFEST: ("the manifest of an engine", inspect.removesuffix(".json")),
    }[kind]
    raise InputError(f"{str(path)!r} is {what}", expected, fix)


def _keys_of_json(path: Path) -> set[str]:
    """The keys at the top of a JSON object; none of any other file."""
    with path.open("rb") as file:
        text = file.read(MOST_BYTES + 1) if file.read(1) == b"{" else b""
    nests = text.count(b"[") + text.count(b"{")
    if len(text) > MOST_BYTES or nests > MOST_NESTS or text.count(b",") > MOST_VALUES:
        return set()  # no file of ours
    try:
        return set(json.loads(b"{" + text))
    except (ValueError, RecursionError):
        return set()
