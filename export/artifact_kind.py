"""Which kind of artifact a file is; nothing is loaded to tell."""

from __future__ import annotations

from pathlib import Path

from dabnet.files import existing_file
from dabnet.runtime import ENGINE_SUFFIXES
from dabnet.runtime.manifest import engine_manifest_path

CHECKPOINT, ONNX, ENGINE = "checkpoint", "onnx", "engine"

DEFAULT_SIZE = (512, 1024)
"""(height, width) for a checkpoint, which takes any."""


def kind_of(path: Path) -> str:
    """``onnx`` by suffix, ``engine`` by suffix or by the manifest beside it, else ``checkpoint``.

    Raises:
        InputError: there is no such file, or it is empty.
    """
    existing_file(path, "a checkpoint, an ONNX file or an engine")
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return ONNX
    if suffix in ENGINE_SUFFIXES or engine_manifest_path(path).is_file():
        return ENGINE
    return CHECKPOINT
