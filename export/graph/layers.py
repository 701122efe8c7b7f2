"""What an ONNX graph is made of: operators, and each layer's type, parameters and multiply-adds.

Nothing is run: shapes come from ``onnx.shape_inference`` and types from the graph's own tensors, so
that files of other tools can be read too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx
import onnx.inliner
from onnx import TensorProto

Shape = tuple[int, ...]

# Operators with weights: where each reads its data, its weights and its bias. Those that compute
# on integers themselves are in ``_INTEGER``; the others do so between Q/DQ pairs.
_OPERANDS = {
    "Conv": (0, 1, 2),
    "FusedConv": (0, 1, 2),
    "ConvTranspose": (0, 1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1, None),
    "ConvInteger": (0, 1, None),
    "MatMulInteger": (0, 1, None),
    "QLinearConv": (0, 3, 8),
    "QLinearMatMul": (0, 3, None),
}
_INTEGER = {"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"}

_TYPE_NAMES = {
    **{TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.DOUBLE: "fp64"},
    **{TensorProto.BFLOAT16: "bf16", TensorProto.INT8: "int8", TensorProto.UINT8: "int8"},
    **{TensorProto.FLOAT8E4M3FN: "fp8", TensorProto.FLOAT8E5M2: "fp8"},
    **{TensorProto.INT16: "int16", TensorProto.UINT16: "int16"},
}
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}

# Constants after the first input of these are scales, zero points and sizes: no parameters.
_SETTINGS = {"QuantizeLinear", "DequantizeLinear", "Resize", "Upsample"}


@dataclass(frozen=True, slots=True)
class Layer:
    """One operator with weights.

    Attributes:
        name: of the node, or of its output where it has none.
        operator: such as ``Conv``; the class of a checkpoint's module, the kind of an engine's
            layer.
        precision: what it multiplies: ``fp32``, ``fp16``, ``int8``, …; ``unknown`` where the graph
            does not tell. A layer is int8 only if its data and its weights both are.
        output_shape: for example (N, C, H, W); None where it cannot be inferred.
        parameters: weights and biases; None for an engine.
        multiply_adds: for the whole output; None for an engine and where a shape is unknown. At
            the least, 0, where the values of a call decide the shape (``NonZero``).
    """

    name: str
    operator: str
    precision: str
    output_shape: Shape | None
    parameters: int | None
    multiply_adds: int | None


@dataclass(frozen=True, slots=True)
class GraphSummary:
    """Counts of one graph.

    Attributes:
        operators: nodes by operator, subgraphs included, most frequent first; operators outside
            the ONNX domain carry theirs before a colon.
        layers: in graph order.
        parameters: elements of the float constants and of the layers' weights and biases, without
            scales, zero points and sizes.
    """

    operators: dict[str, int]
    layers: tuple[Layer, ...]
    parameters: int

    @property
    def multiply_adds(self) -> int | None:
        """Of all layers for one call; None where a layer's shape is unknown."""
        return total_multiply_adds(self.layers)


def total_multiply_adds(layers: tuple[Layer, ...]) -> int | None:
    """Sum over layers; None where one is unknown, since a part would be taken for the whole."""
    counts = [layer.multiply_adds for layer in layers]
    return None if None in counts else sum(count for count in counts if count is not None)


def summarise_graph(model: onnx.ModelProto, example: tuple[int, int, int] | None) -> GraphSummary:
    """Count a graph's operators and what its layers do.

    Args:
        model: not modified.
        example: (batch, height, width) for the sides of an image input that each call chooses;
            None leaves them open, and with them the multiply-adds that depend on them.
    """
    if model.functions:  # local functions hide the operators that run
        model = onnx.inliner.inline_local_functions(model)
    tensors = _Tensors(model, example)
    layers = tuple(_layer(node, tensors) for node in model.graph.node if node.op_type in _OPERANDS)
    counts = Counter(_operator(node) for node in _nodes(model.graph))
    return GraphSummary(
        dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        layers,
        _parameters(model.graph, tensors),
    )


def tensor_shapes(model: onnx.ModelProto, example: tuple[int, int, int] | None) -> dict[str, Shape]:
    """Shape of each tensor and constant that is known; ``example`` as in ``summarise_graph``."""
    return _Tensors(model, example).shapes


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """``TensorProto.DataType`` of each tensor and constant; 0 where it is not known."""
    return _Tensors(model, None).types


class _Tensors:
    """Shapes, types, constants and producers of a graph's tensors, by name."""

    def __init__(self, model: onnx.ModelProto, example: tuple[int, int, int] | None) -> None:
        self.producer = {name: node for node in model.graph.node for name in node.output if name}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant":
                tensors = (a.t for a in node.attribute if a.name == "value")
                self.constants.update((node.output[0], tensor) for tensor in tensors)
        self.shapes: dict[str, Shape] = {}
        self.types: dict[str, int] = {}
        graph = _inferred(model, example)
        for value in (*graph.input, *graph.value_info, *graph.output):
            self.types[value.name] = value.type.tensor_type.elem_type
            if value.type.tensor_type.HasField("shape"):
                dims = value.type.tensor_type.shape.dim
                if all(dim.HasField("dim_value") for dim in dims):
                    self.shapes[value.name] = tuple(dim.dim_value for dim in dims)
        for name, tensor in self.constants.items():
            self.shapes[name], self.types[name] = tuple(tensor.dims), tensor.data_type

    def dequantised(self, name: str) -> str | None:
        """The quantised tensor that ``name`` is made of by a DequantizeLinear; None for others."""
        node = self.producer.get(name)
        return node.input[0] if node is not None and node.op_type == "DequantizeLinear" else None

    def stored(self, name: str) -> str:
        """The constant behind ``name``: past an Identity, which shares it, and a Dequantize."""
        while (node := self.producer.get(name)) is not None:
            if node.op_type not in ("Identity", "DequantizeLinear"):
                break
            name = node.input[0]
        return name

    def type_name(self, name: str) -> str:
        return _TYPE_NAMES.get(self.types.get(name, 0), "unknown")

    def quantised_type(self, name: str) -> str:
        """Type of a quantised tensor; its QuantizeLinear's zero point says it without inference."""
        found = self.type_name(name)
        node = self.producer.get(name)
        if found == "unknown" and node is not None and node.op_type == "QuantizeLinear":
            return self.type_name(node.input[2]) if len(node.input) > 2 else "int8"
        return found


def _inferred(model: onnx.ModelProto, example: tuple[int, int, int] | None) -> Any:
    """The graph with every shape that can be inferred, its image input's open sides filled in."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]  # of another size, perhaps
    if example is not None:
        for value in copy.graph.input:
            axes = image_axes(value)
            for axis, side in zip(axes, example, strict=False):
                dim = value.type.tensor_type.shape.dim[axis]
                if not dim.HasField("dim_value"):
                    dim.dim_value = side
    try:
        inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True)
        if _least_of_the_values(inferred.graph):
            inferred = onnx.shape_inference.infer_shapes(inferred, data_prop=True)
        return inferred.graph
    except onnx.shape_inference.InferenceError:  # a foreign graph: its declared shapes are left
        return model.graph


def _least_of_the_values(graph: onnx.GraphProto) -> bool:
    """Give what NonZero finds its least size, 0; whether there was one.

    Only a call's values decide that size. So what is done with it counts as nothing: a bound below.
    """
    found = {node.output[0] for node in graph.node if node.op_type == "NonZero"}
    for value in graph.value_info:
        if value.name in found:
            value.type.tensor_type.shape.dim[1].dim_value = 0
    return bool(found)


def image_axes(value: onnx.ValueInfoProto) -> Shape:
    """Axes of (batch, height, width) in an image input, NHWC or NCHW; () for any other tensor."""
    dims = value.type.tensor_type.shape.dim
    if len(dims) != 4:
        return ()
    if dims[3].dim_value in (1, 3):
        return (0, 1, 2)
    return (0, 2, 3) if dims[1].dim_value in (1, 3) else ()


def _layer(node: onnx.NodeProto, tensors: _Tensors) -> Layer:
    data, weights, *bias = _operands(node)
    constants = (tensors.constants.get(tensors.stored(name)) for name in (weights, *bias))
    return Layer(
        name=node.name or node.output[0],
        operator=_operator(node),
        precision=_precision(node, data, weights, tensors),
        output_shape=tensors.shapes.get(node.output[0]),
        parameters=sum(math.prod(tensor.dims) for tensor in constants if tensor is not None),
        multiply_adds=_multiply_adds(node, data, weights, tensors),
    )


def _operands(node: onnx.NodeProto) -> list[str]:
    """Names of the data, the weights and, where there is one, the bias."""
    places = [place for place in _OPERANDS[node.op_type] if place is not None]
    return [node.input[place] for place in places if place < len(node.input)]


def _precision(node: onnx.NodeProto, data: str, weights: str, tensors: _Tensors) -> str:
    if node.op_type in _INTEGER:
        return tensors.type_name(weights) if weights in tensors.types else "int8"
    quantised = tensors.dequantised(data)
    # Quantised weights alone save memory: the arithmetic stays that of the data.
    if quantised is not None and tensors.dequantised(weights) is not None:
        return tensors.quantised_type(quantised)
    names = (node.output[0], data, weights)
    return next((t for t in map(tensors.type_name, names) if t != "unknown"), "unknown")


def _multiply_adds(node: onnx.NodeProto, data: str, weights: str, tensors: _Tensors) -> int | None:
    read, kernel = (
        tensors.shapes.get(data),
        tensors.shapes.get(tensors.stored(weights)),
    )
    written = tensors.shapes.get(node.output[0])
    if read is None or kernel is None or written is None:
        return None
    if node.op_type == "ConvTranspose":  # kernel (C in, C out / groups, h, w)
        return math.prod(read) * math.prod(kernel[1:])
    if "Conv" in node.op_type:  # kernel (C out, C in / groups, h, w)
        return math.prod(written) * math.prod(kernel[1:])
    if node.op_type == "Gemm":
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        return math.prod(written) * kernel[1 if transposed else 0]
    return math.prod(written) * read[-1]


def _parameters(graph: onnx.GraphProto, tensors: _Tensors) -> int:
    settings = {n for node in graph.node if node.op_type in _SETTINGS for n in node.input[1:]}
    layered = set()
    for node in graph.node:
        if node.op_type in _OPERANDS:
            names = _operands(node)[1:]
            layered |= {tensors.stored(name) for name in names}
            settings |= set(node.input) - set(names) if node.op_type in _INTEGER else set()
    return sum(
        math.prod(tensor.dims)
        for name, tensor in tensors.constants.items()
        if name in layered or (tensor.data_type in _FLOATS and name not in settings)
    )


def _operator(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}:{node.op_type}"


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of If and Loop bodies too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _nodes(body)
