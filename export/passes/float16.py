"""FP32 graph → FP16 graph, mixed where FP16 would overflow.

    x ─▶ BatchNormalization ─▶ y      x (FP16) ─▶ Mul(scale) ─▶ Add(shift) ─▶ y (FP16)
    y ─▶ Conv(W) ─▶ z                 y ─▶ Conv(W in FP16) ─▶ z (FP16)
    z ─▶ Conv(V) ─▶ 90,000            z ─▶ Cast(FP32) ─▶ Conv(V in FP32) ─▶ (FP32)

Each BatchNormalization is folded into scale and shift in float64 before anything is cast: a running
variance may come close to FP16's maximum. ``float16_choice`` decides what stays FP32, with reasons.
The graph's inputs and outputs keep their types. Casts stand only between FP16 and FP32, one per
tensor and type; pixels are cast from the integer, to either type. In a graph with QuantizeLinear
the operators around the int8 tensors stay FP32 below opset 19, which demands it; from 19 on scales
and the tensors around them become FP16 as well.

Strongly typed TensorRT takes these types as they are. onnxruntime's CPU provider does not: it
removes an FP16 rounding between two nodes it runs in FP32, and an overflow with it. In
``dabnet.graph.execution.Stepwise`` it rounds as the graph says.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from dabnet.errors import BuildError
from dabnet.graph.editing import Insertion, Names, add_constant, replace, scale_and_shift
from dabnet.graph.facts import array, node_name, nodes_of
from export.passes.float16_choice import Halves, becomes_float, choose, is_single

SINGLE, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def to_float16(
    model: ir.Model, *, largest: Mapping[str, float] | None = None
) -> tuple[ir.Model, list[str]]:
    """Change the model to FP16 in place; return it, and what was done.

    Args:
        model: an FP32 graph without control flow, topologically sorted.
        largest: tensor name → the largest |x| that it reached on calibration images, from
            ``calibration.collect.largest_activations``. A node stays FP32 if one of its tensors
            exceeds half of FP16's range. Without it the weights alone decide.

    Returns:
        The model and one line for it as a whole, for each BatchNormalization that was folded, and
        for each node that stays FP32, with the reason.

    Raises:
        BuildError: the graph has control flow, functions or FP16 tensors, or no node can change.
    """
    ranges, graph = dict(largest or {}), model.graph
    common.ShapeInferencePass()(model)
    _check(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _drop_casts_to_the_same_type(graph)
    folded = _fold_batch_norms(graph, ranges)
    halves, reasons = choose(graph, graph.opset_imports[""], ranges)
    kept = [f"{node_name(node)} stays FP32: {reason}" for node, reason in reasons.items()]
    if not halves:
        raise BuildError(
            f"no node of the graph can become FP16 ({kept[0] if kept else 'none is float'})",
            "an FP32 network",
            "export it with --precision fp32",
        )
    casts = _Rewriter(graph, halves).rewrite()
    common.RemoveUnusedNodesPass()(model)
    summary = f"{len(halves)} nodes in FP16, {len(kept)} in FP32, {casts} casts between"
    return model, [summary, *folded, *kept]


def _check(model: ir.Model) -> None:
    given = ""
    if model.functions or any(True for _ in model.graph.subgraphs()):
        given = "a graph with control flow or functions"
    for node in model.graph:
        for tensor in (*node.inputs, *node.outputs):
            if tensor is not None and tensor.dtype in (HALF, ir.DataType.BFLOAT16):
                given = f"the tensor {tensor.name!r} of type {tensor.dtype}"
    if given:
        raise BuildError(given, "a plain FP32 graph", "export the FP32 model and convert that")


def _drop_casts_to_the_same_type(graph: ir.Graph) -> None:
    for node in nodes_of(graph, "Cast"):
        source, output = node.inputs[0], node.outputs[0]
        if is_single(source) and is_single(output) and not output.is_graph_output():
            output.replace_all_uses_with(source)  # type: ignore[arg-type]
            graph.remove(node, safe=True)


def _fold_batch_norms(graph: ir.Graph, ranges: dict[str, float]) -> list[str]:
    """BatchNormalization → Mul, Add; a range is added for the tensor between them."""
    lines = []
    for node in nodes_of(graph, "BatchNormalization"):
        x, y, affine = node.inputs[0], node.outputs[0], scale_and_shift(node)
        if affine is None or x is None or x.shape is None or len(node.outputs) > 1:
            continue
        # (C, 1, 1) for (N, C, H, W)
        scale, shift = (c.reshape(-1, *[1] * (x.shape.rank() - 2)) for c in affine)
        before = Insertion(node, f"{y.name}/affine")
        product = before.op("Mul", [x, before.constant(scale, "scale")])
        result = before.op("Add", [product, before.constant(shift, "shift")])
        product.type, product.shape = y.type, y.shape
        bounds = []  # scale · x and y - shift are the same number
        if x.name in ranges:
            bounds.append(ranges[x.name] * float(np.abs(scale).max()))
        if y.name in ranges:
            bounds.append(ranges[y.name] + float(np.abs(shift).max()))
        if bounds:
            ranges[str(product.name)] = min(bounds)
        lines.append(f"{node_name(node)}: BatchNormalization folded into Mul and Add")
        replace(y, result)
    return lines


class _Rewriter:
    """Gives each node the types that were chosen for it, with one Cast per tensor and type."""

    def __init__(self, graph: ir.Graph, ports: Halves) -> None:
        self._graph, self._names = graph, Names(graph)
        self._ports = ports
        # A dict, for its order.
        self._halves = {n.outputs[i]: None for n, those in ports.items() for i in those.outputs}
        self._cast: dict[ir.Value, ir.Value] = {}
        self._constants: dict[ir.Value, ir.Value] = {}

    def rewrite(self) -> int:
        """Return how many casts were added."""
        for node in list(self._graph):
            ports = self._ports.get(node)
            for index, value in enumerate(node.inputs):
                if value is not None and is_single(value):
                    half = ports is not None and index in ports.inputs
                    node.replace_input_with(
                        index, self._as_half(value) if half else self._as_single(value)
                    )
            if ports is not None and node.op_type == "ConstantOfShape":
                filled = node.attributes.get_tensor("value")
                fill = np.zeros(1) if filled is None else filled.numpy()
                node.attributes.add(ir.AttrTensor("value", ir.tensor(fill.astype(np.float16))))
        for index, value in enumerate(self._graph.outputs):
            if value in self._halves:
                self._graph.outputs[index] = self._output(value)
        for value in self._halves:
            value.type = ir.TensorType(HALF)  # a new one: tensors may share theirs
        self._rename_constants()
        return len(self._cast)

    def _as_half(self, value: ir.Value) -> ir.Value:
        if value in self._halves:
            return value
        constant = array(value)
        if constant is not None:
            if value not in self._constants:
                name = self._names.fresh(f"{value.name}_fp16")
                half = constant.astype(np.float16)
                self._constants[value] = add_constant(self._graph, name, half)
            return self._constants[value]
        producer = value.producer()
        if producer is not None and becomes_float(producer) and producer.inputs[0] is not None:
            return self._casted(value, producer.inputs[0], HALF)
        return self._casted(value, value, HALF)

    def _as_single(self, value: ir.Value) -> ir.Value:
        return self._casted(value, value, SINGLE) if value in self._halves else value

    def _casted(self, value: ir.Value, source: ir.Value, to: ir.DataType) -> ir.Value:
        """``value`` in the other float type, by one Cast of ``source`` behind its producer."""
        if value not in self._cast:
            suffix = "fp16" if to == HALF else "fp32"
            name = self._names.fresh(f"{value.name}_{suffix}")
            output = ir.val(name, to, value.shape)
            node = ir.node("Cast", [source], {"to": int(to)}, outputs=[output], name=name)
            producer = value.producer()
            if producer is None:
                self._graph.insert_before(self._graph.node(0), node)
            else:
                self._graph.insert_after(producer, node)
            self._cast[value] = output
        return self._cast[value]

    def _output(self, value: ir.Value) -> ir.Value:
        """The FP32 form of an FP16 tensor, under the name that the graph's output has."""
        output, name = self._as_single(value), value.name
        value.name = self._names.fresh(f"{name}_fp16")
        output.name = name
        return output

    def _rename_constants(self) -> None:
        """If only the FP16 copy of a constant is read, it takes the place of the other."""
        for old, new in self._constants.items():
            if not old.uses() and not old.is_graph_output():
                name = str(old.name)
                del self._graph.initializers[name]
                new.name = name
