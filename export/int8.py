"""The INT8 part of an export: whose statistics, which ranges, what is rounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import version_converter

from calibration.calibrate import calibrate, quantize
from calibration.calibration_file import Calibration, Subject, graph_sha256, load_calibration
from dabnet.console import ProgressBar
from dabnet.runtime.manifest import CalibrationInfo, PassInfo
from export.export_spec import ExportSpec
from export.float_graph import FloatGraph
from export.images import CalibrationSource, Unreadable, calibration_source
from export.passes.float16 import to_float16
from export.passes.float16_choice import HALF_QDQ_OPSET


def subject_of(graph: FloatGraph, checkpoint_sha256: str, spec: ExportSpec) -> Subject:
    """Say what a calibration of this graph is of."""
    return Subject(checkpoint_sha256, graph_sha256(graph.model), spec.optimize_for, spec.size)


def calibration_of(
    graph: FloatGraph,
    subject: Subject,
    dataset: str,
    data_dir: Path | None,
    spec: ExportSpec,
    progress: ProgressBar,
) -> Calibration:
    """Read ``spec.calibration_file``, or calibrate on images of the training split.

    Raises:
        InputError: the file is of another network or graph, or there are no images.
    """
    if spec.calibration_file is not None:
        calibration = load_calibration(spec.calibration_file)
        calibration.require(subject, "this export")
        return calibration
    images = calibration_source(dataset, data_dir, spec.calibration_images, spec.size)
    return collected(graph, subject, images, progress)


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
    graph: FloatGraph, calibration: Calibration, spec: ExportSpec
) -> tuple[onnx.ModelProto, CalibrationInfo]:
    """Insert Q/DQ as ``spec`` asks for, and say by what it was calibrated."""
    model, _ = quantize(
        graph.model,
        calibration.ranges(spec.calibration_method),
        placement=spec.placement,
        float_layers=spec.float_layers,
        half_scales=spec.rest == "fp16",
    )
    return model, calibration_info(calibration, spec)


def calibration_info(calibration: Calibration, spec: ExportSpec) -> CalibrationInfo:
    """What the manifest keeps of a calibration."""
    return CalibrationInfo(
        method=spec.calibration_method,
        dataset=calibration.dataset,
        split=calibration.split,
        images=len(calibration.images),
        image_sha256=tuple(image.sha256 for image in calibration.images),
        placement=spec.placement,
        float_layers=spec.float_layers,
    )


def with_half_rest(
    model: onnx.ModelProto, calibration: Calibration
) -> tuple[onnx.ModelProto, PassInfo]:
    """What Q/DQ leaves in float becomes FP16, scales included, at opset 19.

    Args:
        model: Q/DQ with scales that FP16 holds exactly.
        calibration: how large each tensor grows, so that what would overflow stays FP32.
    """
    graph = ir.from_proto(version_converter.convert_version(model, HALF_QDQ_OPSET))
    largest = {name: h.absolute_maximum for name, h in calibration.histograms.items()}
    graph, lines = to_float16(graph, largest=largest)
    halves = sum(
        any(value.dtype == ir.DataType.FLOAT16 for value in node.outputs) for node in graph.graph
    )
    return ir.to_proto(graph), PassInfo("float16", halves, lines[0])
