"""Checkpoint or ONNX artifact → TensorRT engine."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

from dabnet.errors import InputError
from dabnet.files import existing_file, writable_target
from dabnet.runtime.manifest import Manifest
from dabnet.runtime.tensorrt_product import find_product
from export.build_spec import BuildSpec
from export.engine import build_engine
from export.export_spec import ExportSpec
from export.onnx_export import ProgressBar, export_onnx
from export.onnx_file import load_onnx, manifest_of


def engine_from_onnx(
    onnx_path: Path,
    output: Path,
    build: BuildSpec,
    size: tuple[int, int] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Manifest:
    """Build the engine of an ONNX artifact; a ``size`` that is not the file's is an error."""
    manifest = manifest_of(load_onnx(onnx_path), str(onnx_path))
    if size not in (None, manifest.size):
        raise InputError(
            f"--size {size[0]}x{size[1]}" if size else "",
            f"{manifest.size[0]}x{manifest.size[1]}, the size of {str(onnx_path)!r}",
            "leave --size out, or export another ONNX file",
        )
    return build_engine(onnx_path, output, build, tell)


def engine_from_checkpoint(
    checkpoint: Path,
    output: Path,
    spec: ExportSpec,
    build: BuildSpec,
    *,
    dataset: str | None,
    data_dir: Path | None,
    progress: ProgressBar,
    tell: Callable[[str], None] | None = None,
) -> Manifest:
    """Export the checkpoint to a temporary ONNX file and build its engine.

    Raises:
        DabnetError: as ``export_onnx`` and ``build_engine`` do; nothing is written then.
    """
    output = writable_target(output, checkpoint)
    product = find_product(build.wanted_product)  # before the minutes of an INT8 export
    if product.is_generation_8:
        spec = dataclasses.replace(spec, mask_dtype="int32")
    with tempfile.TemporaryDirectory() as folder:
        onnx_path = Path(folder) / "model.onnx"
        export_onnx(
            checkpoint, onnx_path, spec, dataset=dataset, data_dir=data_dir, progress=progress
        )
        return build_engine(onnx_path, output, build, tell)


def is_onnx(path: Path) -> bool:
    """Whether ``path`` names an ONNX file (by suffix) rather than a checkpoint."""
    return existing_file(path, "a checkpoint or an ONNX file").suffix.lower() == ".onnx"
