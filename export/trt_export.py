"""Checkpoint or ONNX artifact → TensorRT engine."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

from dabnet.console import ProgressBar
from dabnet.errors import InputError
from dabnet.files import existing_file, writable_target
from dabnet.runtime.manifest import Manifest
from dabnet.runtime.tensorrt_product import find_product
from export.build_spec import BuildSpec
from export.engine import build_engine
from export.engine_build import ImagesOfSize
from export.engine_limits import building_card, refuse_early
from export.engine_profile import profile_of
from export.engine_progress import OpenPhases, no_phases
from export.export_spec import ExportSpec
from export.images import calibration_source
from export.onnx_export import export_onnx
from export.onnx_file import load_onnx, manifest_of


def engine_from_onnx(
    onnx_path: Path,
    output: Path,
    build: BuildSpec,
    size: tuple[int, int] | None = None,
    tell: Callable[[str], None] | None = None,
    *,
    phases: OpenPhases = no_phases,
    data_dir: Path | None = None,
    calibration_images: int = 48,
) -> Manifest:
    """Build the engine of an ONNX artifact; a ``size`` that is not the file's is an error.

    ``data_dir`` and ``calibration_images`` are for an INT8 calibrator: where the training images
    are, and how many to take.
    """
    manifest = manifest_of(load_onnx(onnx_path), str(onnx_path))
    if size not in (None, manifest.size):
        raise InputError(
            f"--size {size[0]}x{size[1]}" if size else "",
            f"{manifest.size[0]}x{manifest.size[1]}, the size of {str(onnx_path)!r}",
            "leave --size out, or export another ONNX file",
        )
    images = calibrator_images(build, manifest.dataset, data_dir, calibration_images)
    return build_engine(onnx_path, output, build, tell, phases=phases, images=images)


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
    phases: OpenPhases = no_phases,
) -> Manifest:
    """Export the checkpoint to a temporary ONNX file and build its engine.

    Raises:
        DabnetError: as ``export_onnx`` and ``build_engine`` do; nothing is written then.
    """
    output = writable_target(output, checkpoint)
    # What cannot be built is said before the minutes of an INT8 export.
    product = find_product(build.wanted_product)
    if product.is_generation_8:
        spec = dataclasses.replace(spec, mask_dtype="int32")
    card = building_card(build)
    mask_dtype = spec.mask_dtype if spec.head == "mask" else ""
    refuse_early(build, product, card.compute_capability, mask_dtype)
    profile_of(spec.input_tensor, (spec.batch, *spec.size), build)
    with tempfile.TemporaryDirectory() as folder:
        onnx_path = Path(folder) / "model.onnx"
        manifest = export_onnx(
            checkpoint,
            onnx_path,
            spec,
            dataset=dataset,
            data_dir=data_dir,
            reports=output,
            progress=progress,
        )
        images = calibrator_images(build, manifest.dataset, data_dir, spec.calibration_images)
        return build_engine(onnx_path, output, build, tell, phases=phases, images=images)


def calibrator_images(
    build: BuildSpec, dataset: str, data_dir: Path | None, count: int
) -> ImagesOfSize | None:
    """Training images for an INT8 calibrator; None where there is none, or its cache must do."""
    if build.calibrator is None:
        return None
    cached = build.calibration_cache is not None and build.calibration_cache.exists()
    if cached and data_dir is None and dataset != "toy-street":
        return None
    return lambda size: calibration_source(dataset, data_dir, count, size)


def is_onnx(path: Path) -> bool:
    """Whether ``path`` names an ONNX file (by suffix) rather than a checkpoint."""
    return existing_file(path, "a checkpoint or an ONNX file").suffix.lower() == ".onnx"
