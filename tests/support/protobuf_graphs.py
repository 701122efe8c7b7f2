"""Functions on ``onnx_ir`` graphs, for tests that build and read graphs as protobuf."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from calibration import qdq
from calibration.collect import Image
from calibration.fit_weights import fit_weights, with_weights
from calibration.placements import Edge
from dabnet.graph.execution import Stepwise


def on_protobuf(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, which gets each protobuf model as ``onnx_ir``'s, and whose models come back."""

    @wraps(function)
    def call(*given: Any, **more: Any) -> Any:
        result = function(*map(_forth, given), **{name: _forth(x) for name, x in more.items()})
        return tuple(map(_back, result)) if isinstance(result, tuple) else _back(result)

    return call


def conv_edges(model: onnx.ModelProto) -> list[Edge]:
    """The data input of each Conv, of whatever type, in graph order."""
    return [Edge(n.output[0], 0, n.input[0]) for n in model.graph.node if n.op_type == "Conv"]


def conv_inputs(model: onnx.ModelProto) -> list[str]:
    """The distinct tensors that feed a Conv, in graph order."""
    return list(dict.fromkeys(edge.tensor for edge in conv_edges(model)))


def insert_qdq(
    model: onnx.ModelProto,
    ranges: Mapping[str, float],
    edges: Collection[Edge] | None = None,
    **more: Any,
) -> tuple[onnx.ModelProto, list[str]]:
    """As ``calibration.qdq``'s; by default at the convolutions whose input has a range."""
    if edges is None:
        edges = [edge for edge in conv_edges(model) if edge.tensor in ranges]
    result, lines = qdq.insert_qdq(ir.from_proto(model), ranges, edges, **more)
    return ir.to_proto(result), lines


def with_fitted_weights(
    model: onnx.ModelProto, quantized: onnx.ModelProto, images: Iterable[Image]
) -> tuple[onnx.ModelProto, list[str]]:
    """The int8 model with weights that are fitted to it, and a line per convolution."""
    graph = ir.from_proto(quantized)
    fits, lines = fit_weights(ir.from_proto(model), graph, images)
    return ir.to_proto(with_weights(graph, fits)), lines


def stepwise(
    model: onnx.ModelProto,
    feeds: Mapping[str, NDArray[Any]],
    names: Sequence[str] | None = None,
) -> dict[str, NDArray[Any]]:
    """The tensors ``names`` (None: the outputs), each rounded to its type by its node."""
    return dict(Stepwise(ir.from_proto(model), names).run(feeds))


def _forth(value: Any) -> Any:
    return ir.from_proto(value) if isinstance(value, onnx.ModelProto) else value


def _back(value: Any) -> Any:
    return ir.to_proto(value) if isinstance(value, ir.Model) else value
