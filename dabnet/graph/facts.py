"""Facts of a graph: who reads what, constants, and each layer's type, size and multiply-adds.

Nothing is run: onnx infers shapes and types, so that files of other tools can be read too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.shape_inference import InferenceError, infer_shapes

Shape = tuple[int, ...]
FloatArray = NDArray[np.floating[Any]]

# Operators with weights: the inputs that are its data, its weights and its bias. Those that compute
# on integers themselves are in ``_INTEGER``; the others do so between Q/DQ pairs.
_OPERANDS: dict[str, Shape] = {
    **dict.fromkeys(("Conv", "FusedConv", "ConvTranspose", "Gemm"), (0, 1, 2)),
    **dict.fromkeys(("MatMul", "ConvInteger", "MatMulInteger"), (0, 1)),
    **{"QLinearConv": (0, 3, 8), "QLinearMatMul": (0, 3)},
}
_INTEGER = {"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"}

_TYPE_NAMES = {
    **{ir.DataType.FLOAT: "fp32", ir.DataType.FLOAT16: "fp16", ir.DataType.DOUBLE: "fp64"},
    **{ir.DataType.BFLOAT16: "bf16", ir.DataType.INT8: "int8", ir.DataType.UINT8: "int8"},
    **{ir.DataType.FLOAT8E4M3FN: "fp8", ir.DataType.FLOAT8E5M2: "fp8"},
    **{ir.DataType.INT16: "int16", ir.DataType.UINT16: "int16"},
}


@dataclass(frozen=True, slots=True)
class Layer:
    """One operator with weights.

    Attributes:
        name: of the node, or of its output if it has none.
        operator: such as ``Conv``; its domain before a colon unless that is ONNX's.
        precision: type of its multiplications: ``fp32``, ``fp16``, ``int8``, …; ``unknown`` if the
            graph does not tell. A layer is int8 only if its data and its weights both are.
        parameters: elements of its weights and biases.
        multiply_adds: for the whole output; None if a shape is unknown. The minimum, 0, if the
            values of a call decide the shape (``NonZero``).
    """

    name: str
    operator: str
    precision: str
    parameters: int
    multiply_adds: int | None


@dataclass(frozen=True, slots=True)
class Window:
    """How a two-dimensional Conv or pool slides: its attributes, with ONNX's defaults."""

    strides: Shape = (1, 1)
    dilations: Shape = (1, 1)
    pads: Shape = (0, 0, 0, 0)
    group: int = 1
    auto_pad: str = "NOTSET"

    @classmethod
    def of(cls, node: ir.Node) -> Window:
        """That of a Conv or pool."""
        found = node.attributes
        return cls(
            tuple(found.get_ints("strides", (1, 1))),
            tuple(found.get_ints("dilations", (1, 1))),
            tuple(found.get_ints("pads", (0, 0, 0, 0))),
            found.get_int("group", 1),
            found.get_string("auto_pad", "NOTSET"),
        )


def layers_of(graph: ir.Graph) -> dict[ir.Node, Layer]:
    """The layers of a graph whose shapes and types are inferred, in its order."""
    return {node: _layer(node) for node in graph if _has_operands(node)}


def inferred(model: ir.Model, example: tuple[int, int, int] | None = None) -> ir.Model:
    """Return a copy with every shape and type that onnx can infer, and local functions inlined.

    A size that only the values of a call decide is 0, its minimum.

    Args:
        model: not modified.
        example: (batch, height, width) for the sides of an image input that each call chooses;
            None leaves them open, and with them the shapes that depend on them.
    """
    copy = model.clone()
    for value in copy.graph.inputs:
        for axis, side in zip(image_axes(value), example or (), strict=False):
            if value.shape is not None and not isinstance(value.shape[axis], int):
                value.shape[axis] = side
    proto: Any = ir.to_proto(copy)
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    del proto.graph.value_info[:]  # of another size, perhaps
    found = {node.output[0] for node in proto.graph.node if node.op_type == "NonZero"}
    try:
        proto = infer_shapes(proto, data_prop=True)
        for value in proto.graph.value_info:
            if value.name in found and len(value.type.tensor_type.shape.dim) == 2:
                value.type.tensor_type.shape.dim[1].dim_value = 0
        if found:
            proto = infer_shapes(proto, data_prop=True)
    except InferenceError:  # a graph of another tool: the shapes that it declares remain
        return copy
    result: ir.Model = ir.from_proto(proto)
    return result


def image_axes(value: ir.Value) -> Shape:
    """Axes of (batch, height, width) in an image input, NHWC or NCHW; () for any other tensor."""
    shape = value.shape
    if shape is None or len(shape) != 4:
        return ()
    if shape[3] in (1, 3):
        return (0, 1, 2)
    return (0, 2, 3) if shape[1] in (1, 3) else ()


def static_shape(value: ir.Value | None) -> Shape | None:
    """The sides of a tensor; None if one is not known."""
    shape = None if value is None else value.shape
    return shape.numpy() if shape is not None and shape.is_static() else None


def channels(value: ir.Value | None) -> int | None:
    """C of a (N, C, H, W) tensor; None if it is not known."""
    shape = None if value is None else value.shape
    size = shape[1] if shape is not None and len(shape) == 4 else None
    return size if isinstance(size, int) else None


def sides(value: ir.Value) -> tuple[int, int]:
    """Rows and columns of a (N, C, H, W) tensor; 0 where one is not known, or there is none."""
    if value.shape is None or len(value.shape) != 4:
        return 0, 0
    rows, columns = (side if isinstance(side, int) else 0 for side in value.shape[2:])
    return rows, columns


def array(value: ir.Value | None) -> NDArray[Any] | None:
    """The constant behind ``value``, by an initializer or a Constant node.

    None for any other tensor, and for an initializer that is also an input: a caller may set it.
    """
    tensor = _constant(value)
    if tensor is None or (value is not None and value.is_graph_input()):
        return None
    return tensor.numpy()


def only_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads ``value`` once; None if there are more, or it is an output."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def source(node: ir.Node | None, index: int = 0) -> ir.Node | None:
    """The node that computes input ``index`` of ``node``; None if there is none."""
    value = source_value(node, index)
    return None if value is None else value.producer()


def source_value(node: ir.Node | None, index: int = 0) -> ir.Value | None:
    """Input ``index`` of ``node``; None if there is none."""
    return node.inputs[index] if node is not None and index < len(node.inputs) else None


def nodes_of(graph: ir.Graph, *operators: str) -> list[ir.Node]:
    """The nodes of some operators of the ONNX domain, in graph order, safe to edit over."""
    return [node for node in graph if is_op(node, *operators)]


def is_op(node: ir.Node | None, *operators: str) -> bool:
    """Whether this is a node of one of these operators of the ONNX domain."""
    return node is not None and node.domain == "" and node.op_type in operators


def is_conv(node: ir.Node) -> bool:
    """Whether this is a Conv of the ONNX domain (not a ConvTranspose)."""
    return is_op(node, "Conv")


def node_name(node: ir.Node) -> str:
    """The name of a node, or of its first output if it has none."""
    return node.name or str(node.outputs[0].name)


def layer_name(node: ir.Node) -> str:
    """The name of a convolution in tables and options: its module in the network.

    ``/network/init_conv/init_conv.0/conv/Conv`` → ``init_conv.0``.
    """
    name = node_name(node)
    parts = [part for part in name.strip("/").split("/") if part not in ("network", "Conv", "conv")]
    # A child of a Sequential repeats its parent's name: init_conv/init_conv.0.
    kept = [
        part
        for part, following in zip(parts, [*parts[1:], ""], strict=True)
        if not following.startswith(part + ".")
    ]
    return ".".join(kept) or name


def _constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    try:
        return None if value is None else ir.convenience.get_const_tensor(value)
    except ValueError:  # a Constant of another kind, such as a sparse tensor
        return None


def _has_operands(node: ir.Node) -> bool:
    return node.op_type in _OPERANDS and len(_operands(node)) > 1


def _layer(node: ir.Node) -> Layer:
    data, weights, *bias = _operands(node)
    constants = [_constant(_stored(value)) for value in (weights, *bias)]
    return Layer(
        name=node_name(node),
        operator=f"{node.domain}:{node.op_type}" if node.domain else node.op_type,
        precision=_precision(node, data, weights),
        parameters=sum(tensor.size for tensor in constants if tensor is not None),
        multiply_adds=_multiply_adds(node, data, weights),
    )


def _operands(node: ir.Node) -> list[ir.Value]:
    """The data, the weights and, if there is one, the bias."""
    places = (place for place in _OPERANDS[node.op_type] if place < len(node.inputs))
    return [value for value in (node.inputs[place] for place in places) if value is not None]


def _read_by(value: ir.Value, *operators: str) -> ir.Value | None:
    """The data of the node that computes ``value``, if it is one of these operators."""
    node = value.producer()
    return source_value(node) if node is not None and node.op_type in operators else None


def _stored(value: ir.Value) -> ir.Value:
    """The constant behind ``value``: past an Identity, which shares it, and a DequantizeLinear."""
    while (behind := _read_by(value, "Identity", "DequantizeLinear")) is not None:
        value = behind
    return value


def _precision(node: ir.Node, data: ir.Value, weights: ir.Value) -> str:
    if node.op_type in _INTEGER:
        return "int8" if weights.dtype is None else _type_name(weights)
    quantised = _read_by(data, "DequantizeLinear")
    # Quantised weights alone save memory: the arithmetic stays that of the data.
    if quantised is not None and _read_by(weights, "DequantizeLinear") is not None:
        return _quantised_type(quantised)
    types = map(_type_name, (node.outputs[0], data, weights))
    return next((name for name in types if name != "unknown"), "unknown")


def _quantised_type(value: ir.Value) -> str:
    """Type of a quantised tensor; its QuantizeLinear's zero point says it without inference."""
    node = value.producer()
    if value.dtype is None and node is not None and node.op_type == "QuantizeLinear":
        zero_point = node.inputs[2] if len(node.inputs) > 2 else None
        return "int8" if zero_point is None else _type_name(zero_point)
    return _type_name(value)


def _type_name(value: ir.Value) -> str:
    return "unknown" if value.dtype is None else _TYPE_NAMES.get(value.dtype, "unknown")


def _multiply_adds(node: ir.Node, data: ir.Value, weights: ir.Value) -> int | None:
    read, kernel = static_shape(data), static_shape(_stored(weights))
    written = static_shape(node.outputs[0])
    if not read or not kernel or written is None:  # a scalar is no operand of these
        return None
    if node.op_type == "ConvTranspose":  # kernel (C in, C out / groups, h, w)
        return math.prod(read) * math.prod(kernel[1:])
    if "Conv" in node.op_type:  # kernel (C out, C in / groups, h, w)
        return math.prod(written) * math.prod(kernel[1:])
    if node.op_type == "Gemm":
        if len(kernel) != 2:
            return None
        return math.prod(written) * kernel[1 if node.attributes.get_int("transB", 0) else 0]
    return math.prod(written) * read[-1]
