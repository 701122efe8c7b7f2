"""Checkpoint → ONNX artifact: the contract graph, its passes, its check and its manifest."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

import onnx

from dabnet.checkpoint import Checkpoint, load_checkpoint
from dabnet.console import ProgressBar
from dabnet.data.images import check_source
from dabnet.files import sha256_of_file, writable_target
from dabnet.models.image_to_mask import ImageToMask
from dabnet.runtime.manifest import CalibrationInfo, Manifest, PassInfo
from export.agreement import agreement_with_pytorch, require
from export.half import half_graph, half_rest
from export.int8.quantise import calibrated_graph, int8_graph, layers_within_budget, ranges_of
from export.onnx_file import check_onnx, save_onnx, with_manifest
from export.passes.targets import optimize
from export.spec import ExportSpec


def export_onnx(
    checkpoint_path: Path,
    output: Path,
    spec: ExportSpec,
    *,
    dataset: str | None = None,
    data_dir: Path | None = None,
    reports: Path | None = None,
    progress: ProgressBar,
) -> Manifest:
    """Write the ONNX artifact that ``spec`` asks for and return its manifest.

    Args:
        checkpoint_path: a checkpoint of ours or a public one.
        output: file to write; left as it was where anything fails.
        dataset: needed by a checkpoint that does not carry classes and preprocessing.
        data_dir: folder of the data set: calibration images from ``train``, check images from
            ``val``. Without it the check uses toy street scenes and INT8 is refused.
        reports: the file beside which the tables of an accuracy budget go; None: ``output``.

    Raises:
        DabnetError: the checkpoint, the size or the images are unfit, or the result disagrees
            with PyTorch.
    """
    output = writable_target(output, checkpoint_path)
    checkpoint = load_checkpoint(checkpoint_path, dataset)
    sha256 = sha256_of_file(checkpoint_path)
    made = _graph(checkpoint, sha256, spec, data_dir, reports or output, progress)
    manifest = _manifest(checkpoint, sha256, spec, made)

    # The check runs the graph as it will be written; only the agreement joins its manifest after.
    trial = with_manifest(made.model, manifest)
    check_onnx(trial)
    images = check_source(checkpoint.dataset, data_dir, spec.check_images, spec.size)
    reference = ImageToMask(checkpoint.network(), checkpoint.preprocessing).eval()
    with progress("comparing with PyTorch", len(images)) as step:
        agreement = agreement_with_pytorch(trial, reference, spec, images, step)
    require(agreement, spec.required_agreement, spec.precision)
    manifest = dataclasses.replace(manifest, agreement=agreement)
    save_onnx(with_manifest(made.model, manifest), output)
    return manifest


@dataclass(frozen=True, slots=True)
class _Made:
    """A graph, and what was done to it."""

    model: onnx.ModelProto
    passes: tuple[PassInfo, ...]
    calibration: CalibrationInfo | None
    logits: str


def _graph(
    checkpoint: Checkpoint,
    checkpoint_sha256: str,
    spec: ExportSpec,
    data_dir: Path | None,
    reports: Path,
    progress: ProgressBar,
) -> _Made:
    graph = calibrated_graph(checkpoint, data_dir, spec, progress)
    model, passes, ranges, info = graph.model, graph.passes, None, None
    if spec.precision == "int8":
        ranges = ranges_of(graph, checkpoint, checkpoint_sha256, data_dir, spec, progress)
        if spec.has_budget:
            found = layers_within_budget(
                graph, ranges, checkpoint, data_dir, spec, reports, progress
            )
            spec = dataclasses.replace(spec, float_layers=found.chosen.float_layers)
        model, info = int8_graph(graph, ranges, spec)
    model, after = optimize(
        model,
        spec.optimize_for,
        spec.precision,
        quantized=True,
        without=spec.without_passes,
    )
    passes += after
    if spec.precision == "fp16":
        model, halved = half_graph(model, checkpoint.dataset, data_dir, spec, progress)
        passes = (*passes, halved)
    elif ranges is not None and spec.rest == "fp16":
        model, halved = half_rest(model, ranges.largest)
        passes = (*passes, halved)
    return _Made(model, passes, info, graph.logits)


def _manifest(
    checkpoint: Checkpoint, checkpoint_sha256: str, spec: ExportSpec, made: _Made
) -> Manifest:
    libraries = ("torch", "onnx", "onnx-ir", "numpy")
    return Manifest(
        model=checkpoint.model,
        dataset=checkpoint.dataset,
        classes=checkpoint.labels.classes,
        palette=checkpoint.labels.palette,
        ignore=checkpoint.labels.ignore,
        preprocessing=checkpoint.preprocessing,
        input=spec.input_tensor,
        output=spec.output_tensor(len(checkpoint.labels.classes)),
        precision=spec.precision,
        example=(spec.batch, *spec.size),
        checkpoint_sha256=checkpoint_sha256,
        logits=made.logits,
        optimized_for=spec.optimize_for,
        passes=made.passes,
        opset=next(o.version for o in made.model.opset_import if o.domain == ""),
        calibration=made.calibration,
        libraries={name: importlib.metadata.version(name) for name in libraries},
    )
