"""The INT8 part of an export: whose statistics, which ranges, what is rounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import version_converter

from calibration.calibrate import calibrate, quantize
from calibration.calibration_file import Calibration, Subject, graph_sha256, load_calibration
from calibration.equalize import equalize
from calibration.fit_weights import fit_weights
from calibration.fitted_weights import with_weights_of
from calibration.placements import edges_of
from calibration.ranges import DEFAULT_METHOD
from calibration.trained_ranges import ranges_by_tensor
from dabnet.checkpoint import Checkpoint
from dabnet.console import ProgressBar
from dabnet.errors import InputError
from dabnet.runtime.manifest import CalibrationInfo, PassInfo
from export.export_spec import ExportSpec
from export.float_graph import FloatGraph, float_graph
from export.images import CalibrationSource, Unreadable, calibration_source
from export.passes.float16 import to_float16
from export.passes.float16_choice import HALF_QDQ_OPSET

# Images for equalisation and for fitting weights: sums over them change little after a few.
REFINING_IMAGES = 16


def calibrated_graph(
    checkpoint: Checkpoint, data_dir: Path | None, spec: ExportSpec, progress: ProgressBar
) -> FloatGraph:
    """Return the FP32 graph that is calibrated, with equalised channels if ``spec`` says so."""
    graph = float_graph(checkpoint, spec)
    if not spec.equalize:
        return graph
    if checkpoint.activation_ranges:
        raise InputError(
            "--equalize for a checkpoint of --qat, whose ranges are trained",
            "a checkpoint without them",
            "leave --equalize out",
        )
    images = calibration_source(checkpoint.dataset, data_dir, REFINING_IMAGES, spec.size)
    with progress("equalising", len(images)) as step:
        model, lines = equalize(graph.model, images, progress=lambda done, name: step())
    changed = sum(": left" not in line for line in lines)
    applied = PassInfo("equalize", changed, "float32 with other roundings")
    return replace(graph, model=model, passes=(*graph.passes, applied))


def subject_of(graph: FloatGraph, checkpoint_sha256: str, spec: ExportSpec) -> Subject:
    """Say what a calibration of this graph is of."""
    return Subject(checkpoint_sha256, graph_sha256(graph.model), spec.optimize_for, spec.size)


@dataclass(frozen=True, slots=True)
class Ranges:
    """The ranges of an INT8 export, and what is known of them.

    Attributes:
        thresholds: tensor name → t >= 0.
        largest: tensor name → the largest |x| on the calibration images; {} where none was read.
        info: for the manifest.
        fitted: an int8 graph whose weights and biases are to be taken; None: the nearest ones.
    """

    thresholds: dict[str, float]
    largest: dict[str, float]
    info: CalibrationInfo
    fitted: onnx.ModelProto | None = None


def ranges_of(
    graph: FloatGraph,
    checkpoint: Checkpoint,
    checkpoint_sha256: str,
    data_dir: Path | None,
    spec: ExportSpec,
    progress: ProgressBar,
) -> Ranges:
    """Take the ranges of training, of ``spec.calibration_file``, or of training images.

    A checkpoint of quantisation-aware training brings those of its convolutions, unless ``spec``
    names a calibration method or file.

    Raises:
        InputError: the file is of another network or graph, or there are no images.
        ArtifactError: the ranges of the checkpoint do not fit the graph.
    """
    trained: dict[str, float] = {}
    if spec.calibration_method is None and spec.calibration_file is None:
        trained = dict(checkpoint.activation_ranges)
        if trained:
            trained = ranges_by_tensor(graph.model, trained)
    rounded = {edge.tensor for edge in edges_of(graph.model, spec.placement)}
    method = spec.calibration_method or DEFAULT_METHOD
    if trained and rounded <= trained.keys() and spec.rest == "fp32":
        info = CalibrationInfo("trained", checkpoint.dataset, "train", 0, (), spec.placement)
        return Ranges(trained, {}, info)
    subject = subject_of(graph, checkpoint_sha256, spec)
    if spec.calibration_file is not None:
        calibration = load_calibration(spec.calibration_file)
        calibration.require(subject, "this export")
    else:
        count = spec.calibration_images
        images = calibration_source(checkpoint.dataset, data_dir, count, spec.size)
        calibration = collected(graph, subject, images, progress)
    info = CalibrationInfo(
        f"trained, else {method}" if trained else method,
        calibration.dataset,
        calibration.split,
        len(calibration.images),
        tuple(image.sha256 for image in calibration.images),
        spec.placement,
    )
    largest = {name: h.absolute_maximum for name, h in calibration.histograms.items()}
    return Ranges({**calibration.ranges(method), **trained}, largest, info)


def collected(
    graph: FloatGraph,
    subject: Subject,
    images: CalibrationSource,
    progress: ProgressBar,
    *,
    unreadable: Unreadable | None = None,
    before: Calibration | None = None,
    keep: Callable[[Calibration], None] | None = None,
) -> Calibration:
    """Calibrate on ``images`` with a bar; see ``calibration.calibrate.calibrate``."""
    dataset, split = images.origin
    with progress("calibrating", len(images)) as step:
        return calibrate(
            graph.model,
            images.hashed(unreadable),
            subject,
            dataset=dataset,
            split=split,
            progress=lambda done, name: step(),
            before=before,
            keep=keep,
        )


def int8_graph(
    graph: FloatGraph, ranges: Ranges, spec: ExportSpec
) -> tuple[onnx.ModelProto, CalibrationInfo]:
    """Insert Q/DQ as ``spec`` asks for; return the graph, and what the manifest says of it."""
    model, _ = quantize(
        graph.model,
        ranges.thresholds,
        placement=spec.placement,
        float_layers=spec.float_layers,
        half_scales=spec.rest == "fp16",
    )
    if ranges.fitted is not None:
        model = with_weights_of(model, ranges.fitted)
    return model, replace(ranges.info, float_layers=spec.float_layers)


def with_fitted_weights(
    graph: FloatGraph,
    ranges: Ranges,
    dataset: str,
    data_dir: Path | None,
    spec: ExportSpec,
    progress: ProgressBar,
) -> Ranges:
    """Fit the weights of all convolutions that the placement rounds."""
    model, _ = int8_graph(graph, ranges, replace(spec, float_layers=()))
    images = calibration_source(dataset, data_dir, REFINING_IMAGES, spec.size)
    with progress("fitting weights", len(images)) as step:
        fitted, _ = fit_weights(graph.model, model, images, progress=lambda done, name: step())
    info = replace(ranges.info, method=f"{ranges.info.method}, fitted weights")
    return replace(ranges, fitted=fitted, info=info)


def with_half_rest(
    model: onnx.ModelProto, largest: Mapping[str, float]
) -> tuple[onnx.ModelProto, PassInfo]:
    """What Q/DQ leaves in float becomes FP16, scales included, at opset 19.

    Args:
        model: Q/DQ with scales that FP16 holds exactly.
        largest: how large each tensor grows, so that what would overflow stays FP32.
    """
    graph = ir.from_proto(version_converter.convert_version(model, HALF_QDQ_OPSET))
    graph, lines = to_float16(graph, largest=largest)
    halves = sum(
        any(value.dtype == ir.DataType.FLOAT16 for value in node.outputs) for node in graph.graph
    )
    return ir.to_proto(graph), PassInfo("float16", halves, lines[0])
