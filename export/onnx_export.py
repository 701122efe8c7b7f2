"""Checkpoint → ONNX artifact: the contract graph, its INT8 form, its check and its manifest."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import tempfile
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import onnx
import torch

from calibration.calibrate import quantize
from dabnet.checkpoint import Checkpoint, load_checkpoint
from dabnet.files import sha256_of_file, writable_target
from dabnet.models.image_to_mask import ImageToMask
from dabnet.runtime.manifest import CalibrationInfo, Manifest, TensorInfo
from export.agreement import agreement_with_pytorch, require
from export.export_spec import ExportSpec
from export.images import calibration_source, check_source
from export.onnx_file import save_onnx, with_manifest

OPSET = 17  # TensorRT 8.6 takes no more; ORT's CUDA provider lacks kernels of later ones

ProgressBar = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""(what, steps) → a bar whose function is called once a step; see ``dabnet.console``."""


def export_onnx(
    checkpoint_path: Path,
    output: Path,
    spec: ExportSpec,
    *,
    dataset: str | None = None,
    data_dir: Path | None = None,
    progress: ProgressBar,
) -> Manifest:
    """Write the ONNX artifact that ``spec`` asks for and return its manifest.

    Args:
        checkpoint_path: a checkpoint of ours or a public one.
        output: file to write; left as it was where anything fails.
        dataset: needed by a checkpoint that does not carry classes and preprocessing.
        data_dir: folder of the data set: calibration images from ``train``, check images from
            ``val``. Without it the check uses toy street scenes and INT8 is refused.

    Raises:
        DabnetError: the checkpoint, the size or the images are unfit, or the result disagrees
            with PyTorch.
    """
    output = writable_target(output, checkpoint_path)
    checkpoint = load_checkpoint(checkpoint_path, dataset)
    mask_dtype = getattr(torch, spec.mask_dtype)
    module = ImageToMask(checkpoint.network(), checkpoint.preprocessing, mask_dtype).eval()
    model = contract_graph(module, spec)
    calibration = None
    if spec.precision == "int8":
        model, calibration = _quantized(model, checkpoint.dataset, data_dir, spec, progress)
    manifest = _manifest(checkpoint, checkpoint_path, spec, model, calibration)

    # The check runs the graph as it will be written; only the agreement joins its manifest after.
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "trial.onnx"
        save_onnx(with_manifest(model, manifest), trial)
        images = check_source(checkpoint.dataset, data_dir, spec.check_images, spec.size)
        with progress("comparing with PyTorch", len(images)) as step:
            agreement = agreement_with_pytorch(trial, module, images, step)
    require(agreement, spec.required_agreement, spec.precision)
    manifest = dataclasses.replace(manifest, agreement=agreement)
    save_onnx(with_manifest(model, manifest), output)
    return manifest


def contract_graph(module: ImageToMask, spec: ExportSpec) -> onnx.ModelProto:
    """Trace the module: ``image`` uint8 (N, H, W, 3) → ``mask`` (N, H, W), opset 17.

    The exporter folds each BatchNorm that follows a convolution into its weights (evaluation
    mode); those before a convolution, behind a Concat or an Add, stay nodes of their own.
    """
    example = torch.zeros((spec.batch, *spec.size, 3), dtype=torch.uint8)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        traced = Path(folder) / "traced.onnx"
        # The TorchScript exporter writes opset 17 itself; the newer one converts down to it,
        # takes longer and renames the weights.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (example,),
            traced,
            input_names=["image"],
            output_names=["mask"],
            opset_version=OPSET,
            dynamo=False,
        )
        return onnx.load(traced)


def _quantized(
    model: onnx.ModelProto,
    dataset: str,
    data_dir: Path | None,
    spec: ExportSpec,
    progress: ProgressBar,
) -> tuple[onnx.ModelProto, CalibrationInfo]:
    images = calibration_source(dataset, data_dir, spec.calibration_images, spec.size)
    with progress("calibrating", len(images)) as step:
        return quantize(
            model,
            images,
            dataset=images.dataset.name,
            split=images.dataset.split,
            method=spec.calibration_method,
            progress=lambda done, name: step(),
        )


def _manifest(
    checkpoint: Checkpoint,
    checkpoint_path: Path,
    spec: ExportSpec,
    model: onnx.ModelProto,
    calibration: CalibrationInfo | None,
) -> Manifest:
    height, width = spec.size
    return Manifest(
        model=checkpoint.model,
        dataset=checkpoint.dataset,
        classes=checkpoint.labels.classes,
        palette=checkpoint.labels.palette,
        ignore=checkpoint.labels.ignore,
        preprocessing=checkpoint.preprocessing,
        input=TensorInfo("image", "uint8", (spec.batch, height, width, 3)),
        output=TensorInfo("mask", spec.mask_dtype, (spec.batch, height, width)),
        precision=spec.precision,
        example=(spec.batch, height, width),
        checkpoint_sha256=sha256_of_file(checkpoint_path),
        opset=model.opset_import[0].version,
        calibration=calibration,
        libraries={name: importlib.metadata.version(name) for name in ("torch", "onnx", "numpy")},
    )
