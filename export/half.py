"""The FP16 part of an export: a whole graph, or what INT8 leaves in float."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import version_converter

from dabnet.console import ProgressBar
from dabnet.data.images import range_source
from dabnet.runtime.manifest import PassInfo
from export.graph.tensors import largest_activations
from export.passes.float16 import to_float16
from export.passes.float16_choice import HALF_QDQ_OPSET
from export.spec import ExportSpec

RANGE_IMAGES = 8  # a rough idea of the largest activations is enough: see to_float16's margin


def half_graph(
    model: onnx.ModelProto,
    dataset: str,
    data_dir: Path | None,
    spec: ExportSpec,
    progress: ProgressBar,
) -> tuple[onnx.ModelProto, PassInfo]:
    """The FP16 graph; what would overflow on images of the training split stays FP32."""
    graph = ir.from_proto(model)
    largest = None
    if spec.input == "uint8":
        count = min(spec.calibration_images, RANGE_IMAGES)
        images = range_source(dataset, data_dir, count, spec.size)
        with progress("looking for overflow", len(images)) as step:
            pairs = ((image.name, image.image) for image in images)
            largest = largest_activations(graph, pairs, lambda done, name: step())
    return _halved(graph, largest)


def half_rest(
    model: onnx.ModelProto, largest: Mapping[str, float]
) -> tuple[onnx.ModelProto, PassInfo]:
    """What Q/DQ leaves in float becomes FP16, scales included, at opset 19.

    Args:
        model: Q/DQ with scales that FP16 holds exactly.
        largest: how large each tensor grows, so that what would overflow stays FP32.
    """
    converted = version_converter.convert_version(model, HALF_QDQ_OPSET)
    return _halved(ir.from_proto(converted), largest)


def _halved(
    graph: ir.Model, largest: Mapping[str, float] | None
) -> tuple[onnx.ModelProto, PassInfo]:
    graph, lines = to_float16(graph, largest=largest)
    halves = sum(
        any(value.dtype == ir.DataType.FLOAT16 for value in node.outputs) for node in graph.graph
    )
    return ir.to_proto(graph), PassInfo("float16", halves, lines[0])
