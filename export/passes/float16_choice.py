"""The choice of nodes of an FP32 graph that compute in FP16, with a reason for each other one.

FP16 holds |x| ≤ 65504 and loses precision below 2**-14, its smallest normal number. A node stays in
FP32 if the operator has no FP16 form, if a constant does not survive the cast, or if one of its
tensors grows too large on the calibration images. Only the values of tensors are judged. The sums
within a convolution are its kernel's: with FP16 tensors onnxruntime's CPU provider sums in FP32, as
tensor cores can, so that only the result is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from dabnet.graph.facts import array, is_op, source

_HALF = np.finfo(np.float16)
# The largest |x| on calibration images of a tensor in FP16; other images may reach twice that.
_LIMIT = float(_HALF.max) / 2

# Rounding to 11 bits costs a normal number at most 2**-11 of itself. A constant whose error is
# twice that share of its norm loses it to subnormals or to zero.
_LARGEST_LOSS = 2.0**-10

# QuantizeLinear and DequantizeLinear take FP16, scales included, since this operator set.
HALF_QDQ_OPSET = 19

_FP16 = "tensor(float16)"
_QUANTISATION = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_MOVES = ("Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
_ARITHMETIC = ("Add", "Div", "Mul", "Sub")


@dataclass(frozen=True, slots=True)
class Ports:
    """The indices of a node's float inputs and outputs that change to FP16 with it."""

    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()

    def values(self, node: ir.Node) -> list[ir.Value]:
        """The tensors at these ports."""
        found = [node.inputs[i] for i in self.inputs] + [node.outputs[i] for i in self.outputs]
        return [value for value in found if value is not None]


Halves = dict[ir.Node, Ports]
Kept = dict[ir.Node, str]


def choose(graph: ir.Graph, opset: int, largest: Mapping[str, float]) -> tuple[Halves, Kept]:
    """Decide for each node with float tensors of a typed graph.

    Args:
        graph: topologically sorted, with the types of its tensors known. It is not modified.
        opset: version of the default operator set.
        largest: tensor name → the largest |x| it reached; tensors that are not named fit.

    Returns:
        The nodes that compute in FP16, with the ports that change, and those that stay FP32, with
        the reason; both in graph order.
    """
    halves, kept, normalising = Halves(), Kept(), _normalisation(graph)
    for node in graph:
        if becomes_float(node) or not any(map(is_single, (*node.inputs, *node.outputs))):
            continue
        ports = _half_ports(node, opset)
        if not ports.values(node):
            reason = f"{node.op_type} has no known FP16 form at opset {opset}"
        elif opset < HALF_QDQ_OPSET and any(
            is_op(value.producer(), *_QUANTISATION)
            for value in ports.values(node)[: len(ports.inputs)]
        ):
            reason = "it reads a dequantised tensor"
        elif not ports.outputs and any(
            value.producer() not in halves for value in ports.values(node) if array(value) is None
        ):
            reason = "it writes no float, and reads FP32"
        elif node in normalising:
            reason = "it normalises the image"
        else:
            reason = _overflow(ports.values(node), largest)
        if reason:
            kept[node] = reason
        else:
            halves[node] = ports
    _keep_moves_between_kept(graph, halves, kept)
    return halves, {node: kept[node] for node in graph if node in kept}


def is_single(value: ir.Value | None) -> bool:
    """Whether this is a float32 tensor."""
    return (
        value is not None
        and isinstance(value.type, ir.TensorType)
        and value.dtype == ir.DataType.FLOAT
    )


def becomes_float(node: ir.Node) -> bool:
    """Whether this is a Cast from another type to float32, which can write FP16 as well."""
    given = node.inputs[0] if node.inputs else None
    return (
        is_op(node, "Cast")
        and is_single(node.outputs[0])
        and given is not None
        and given.dtype not in (None, ir.DataType.FLOAT)
    )


def _half_ports(node: ir.Node, opset: int) -> Ports:
    """The ports that turn FP16 by the operator's schema: tensors that share the type of its data.

    A type that only a parameter has stays FP32: Resize's ``roi``, BatchNormalization's statistics.
    """
    tensors = [value for value in (*node.inputs, *node.outputs) if value is not None]
    if (
        node.domain != ""
        or (node.op_type in _QUANTISATION and opset < HALF_QDQ_OPSET)
        or "dtype" in node.attributes  # the output's type is an attribute
        or not all(isinstance(value.type, ir.TensorType) for value in tensors)
    ):
        return Ports()
    if node.op_type == "Cast":
        return Ports((0,))
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    half = {c.type_param_str for c in schema.type_constraints if _FP16 in c.allowed_type_strs}
    data = {formal.type_str for formal in schema.inputs[:1]}
    data.update(formal.type_str for formal in schema.outputs[: len(node.outputs)])
    changing = half & data

    def ports(values: Any, formal: Any) -> tuple[int, ...]:
        return tuple(
            index
            for index, value in enumerate(values)  # the last formal one may stand for many
            if is_single(value) and formal[min(index, len(formal) - 1)].type_str in changing
        )

    inputs, outputs = ports(node.inputs, schema.inputs), ports(node.outputs, schema.outputs)
    # Without a float input an attribute names the output's type; one such operator can be changed.
    return Ports(inputs, outputs) if inputs or node.op_type == "ConstantOfShape" else Ports()


def _overflow(values: list[ir.Value], largest: Mapping[str, float]) -> str:
    """The reason that one of these tensors does not fit FP16; "" if all do."""
    for value in values:
        constant = array(value)
        if constant is not None:
            if fault := _constant_fault(constant):
                return f"{value.name} {fault}"
        elif (reached := largest.get(str(value.name))) is not None:
            if reached > _LIMIT:
                return f"{value.name} reaches {reached:.6g} > {_LIMIT:.6g}"
            if 0 < reached < _HALF.smallest_normal:
                return f"{value.name} reaches {reached:.3g} only, below FP16's normal numbers"
    return ""


def _constant_fault(values: NDArray[Any]) -> str:
    """The harm that FP16 does to a float constant: "reaches 81230 > 65504"; "" for mere rounding.

    Infinities and NaN stay what they are, and are no fault.
    """
    exact = values[np.isfinite(values)].astype(np.float64)
    with np.errstate(over="ignore"):
        half = exact.astype(np.float16).astype(np.float64)
    if not np.isfinite(half).all():
        return f"reaches {np.abs(exact).max():.6g} > {_HALF.max:.6g}"
    norm, loss = np.linalg.norm(exact), np.linalg.norm(exact - half)
    if loss > _LARGEST_LOSS * norm:
        return f"would lose {100 * loss / norm:.2g} % of its norm to FP16's subnormal numbers"
    return ""


def _normalisation(graph: ir.Graph) -> set[ir.Node]:
    """The arithmetic with constants that pixels go through first, such as the mean's Sub.

    It stays FP32: in FP16 a mean of 72.3924 is 72.375, the same error for all pixels. It costs no
    kernel, since it fuses with the casts around it.
    """
    found: set[ir.Node] = set()
    pixels: set[ir.Value] = set()
    for node in graph:
        constant = [array(value) is not None for value in node.inputs]
        from_pixels = any(value in pixels for value in node.inputs)
        if becomes_float(node) or (from_pixels and is_op(node, *_MOVES)):
            pixels.update(node.outputs)
        elif from_pixels and sum(constant) == 1 and is_op(node, *_ARITHMETIC):
            found.add(node)
            pixels.update(node.outputs)
    return found


def _keep_moves_between_kept(graph: ir.Graph, halves: Halves, kept: Kept) -> None:
    """Leave a Transpose or the like in FP32 if all around it is: it would need two casts."""
    nodes = list(graph)
    free: set[ir.Node] = set()
    for node in nodes:
        if node in halves and is_op(node, *_MOVES):
            made_by = source(node)
            if made_by is None or made_by not in halves or made_by in free:
                free.add(node)
    for node in reversed(nodes):
        moved = node.outputs[0] if node in free else None
        if moved and all(reader not in halves for reader in moved.consumers()):
            del halves[node]
            kept[node] = "all around it is FP32"
