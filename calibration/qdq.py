"""Write int8 into an ONNX graph as QuantizeLinear / DequantizeLinear on edges of a placement.

Before → after, for each Conv (the other operators lack weights, and get the first line alone):

    x ────────────────▶ Conv            x ─▶ Q ─▶ DQ ─▶ Conv
    W (float32) ──────▶                 W (int8) ─▶ DQ ─▶
    B (float32) ──────▶                 B (float32) ─────▶

Only that edge changes: whatever else reads x goes on reading the float x. All is symmetric int8
with zero point 0 and the bias stays float, because TensorRT's parser refuses anything else.

**The guard at Concats.** The parts of a Concat get one scale, and so does what reads the joined
tensor. DABNet's join the pooled image (±150) with features (±2 to ±30), and one scale for both
leaves the features few of its levels. If the ranges of a Concat's inputs differ by more than
``LARGEST_RANGE_RATIO``, its edges stay float (``export.passes.scale_image`` brings them together).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from calibration.placements import Edge
from calibration.ranges import LEVELS
from dabnet.errors import BuildError
from dabnet.graph.editing import Names, add_constant
from dabnet.graph.facts import array, is_conv, node_name, nodes_of

# Largest ratio of the ranges that may share one scale at a Concat: two of the eight bits.
LARGEST_RANGE_RATIO = 4.0

# Smallest scale written. An all-zero channel or tensor would have scale 0, a division by zero; at
# 2**-60 the product of two scales is still a normal FP32 number. FP16 holds no smaller than 2**-24.
MIN_SCALE = 2.0**-60
MIN_HALF_SCALE = 2.0**-24

# DequantizeLinear has an axis, hence per-channel scales, since this version of the operator set.
_MIN_OPSET = 13


def insert_qdq(
    model: ir.Model,
    ranges: Mapping[str, float],
    edges: Collection[Edge],
    *,
    half_scales: bool = False,
) -> tuple[ir.Model, list[str]]:
    """Return a copy of the model with int8 edges, and one line per edge that a policy changed.

    Args:
        model: an FP32 graph, opset 13 or later, topologically sorted. It is not modified.
        ranges: tensor name → threshold t >= 0 (scale t / 127). It may name more tensors than the
            edges round; the guard compares the inputs of a Concat if it names all of them.
        edges: the edges to round, from ``calibration.placements``; each tensor must have a range.
        half_scales: each scale is a number that FP16 holds exactly, so that a conversion of the
            graph to FP16 changes none.

    Raises:
        BuildError: a range is missing, negative or not finite; the weights of a Conv are not a
            float32 initializer; the opset is below 13.
    """
    _check(model, ranges, edges)
    thresholds, lines = _thresholds(model.graph, ranges, edges)
    result = model.clone()
    rewriter = _Rewriter(result.graph, half_scales)
    for node in list(result.graph):
        for index, value in enumerate(node.inputs):
            threshold = thresholds.get((str(node.outputs[0].name), index))
            if threshold is None or value is None:
                continue
            node.replace_input_with(index, rewriter.quantized_activation(node, value, threshold))
            line = f"{node_name(node)}: {value.name} int8 in ±{threshold:.6g}"
            if is_conv(node) and (weight := node.inputs[1]) is not None:
                node.replace_input_with(1, rewriter.quantized_weight(node, weight))
                line += f", {weight.name} int8"
            lines.append(line)
    common.RemoveUnusedNodesPass()(result)  # the float weights that convolutions alone had read
    return result, lines


def _thresholds(
    graph: ir.Graph, ranges: Mapping[str, float], edges: Collection[Edge]
) -> tuple[dict[tuple[str, int], float], list[str]]:
    """The threshold of each edge, (reader, index) → t, and a line for each that stays float."""
    parts_of = {str(n.outputs[0].name): n.inputs for n in nodes_of(graph, "Concat")}
    shared, lines = {}, []
    for joined, parts in parts_of.items():
        found = [ranges[str(v.name)] for v in parts if v is not None and v.name in ranges]
        if len(found) < len(parts):
            continue  # not measured, and so no input of it is to be rounded
        low, high = min(found), max(found)
        if high <= LARGEST_RANGE_RATIO * low:
            shared[joined] = high
        elif any(edge.tensor == joined or edge.reader == joined for edge in edges):
            shared[joined] = math.nan
            lines.append(
                f"{joined} stays float: its parts have ranges of ±{low:.3g} to ±{high:.3g}, more"
                f" than {LARGEST_RANGE_RATIO:g} times apart"
            )
    thresholds = {}
    for edge in edges:
        of_concat = edge.reader if edge.reader in parts_of else edge.tensor
        threshold = shared.get(of_concat, ranges[edge.tensor])
        if not math.isnan(threshold):
            thresholds[edge.reader, edge.index] = threshold
    return thresholds, lines


def quantize_weight(
    weight: NDArray[np.float32], *, half_scales: bool = False
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise a kernel per output channel, symmetrically, with its largest |w| as the range.

    Args:
        weight: float32, (O, ...), finite.
        half_scales: see ``insert_qdq``.

    Returns:
        int8 of the same shape in [-127, 127], and float32 (O,) scales > 0. The error is at most
        half a scale per weight.
    """
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)  # (O,)
    scales = _scales(largest, half_scales)
    steps = weight / scales.reshape(-1, *[1] * (weight.ndim - 1))
    # FP32 division may end a hair above 127.
    return np.clip(np.rint(steps), -LEVELS, LEVELS).astype(np.int8), scales


def _scales(thresholds: NDArray[Any], half: bool) -> NDArray[np.float32]:
    """float32 t / 127 of any shape; FP16's next number above it if it must be one."""
    scales = np.maximum(thresholds / np.float32(LEVELS), MIN_HALF_SCALE if half else MIN_SCALE)
    if half:
        rounded = scales.astype(np.float16)
        above = np.nextafter(rounded, np.float16(np.inf))
        scales = np.where(rounded < scales, above, rounded)  # below, the largest would be clipped
    result: NDArray[np.float32] = scales.astype(np.float32)
    return result


class _Rewriter:
    """Adds pairs and initializers to a graph, one pair per tensor however many nodes read it."""

    def __init__(self, graph: ir.Graph, half_scales: bool) -> None:
        self._graph, self._names, self._half = graph, Names(graph), half_scales
        self._activations: dict[tuple[ir.Value, float], ir.Value] = {}
        self._weights: dict[ir.Value, ir.Value] = {}

    def quantized_activation(self, reader: ir.Node, value: ir.Value, threshold: float) -> ir.Value:
        """The dequantised form of ``value``; its pair is added once per range."""
        key, base = (value, threshold), str(value.name)
        if key not in self._activations:
            scale = self._constant(f"{base}_scale", _scales(np.array(threshold), self._half))
            zero = self._constant(f"{base}_zero_point", np.array(0, dtype=np.int8))
            levels = self._node(reader, base, "QuantizeLinear", [value, scale, zero])
            pair = self._node(reader, base, "DequantizeLinear", [levels, scale, zero])
            self._activations[key] = pair
        return self._activations[key]

    def quantized_weight(self, conv: ir.Node, weight: ir.Value) -> ir.Value:
        """The dequantised form of ``weight``, whose int8 copy is added once."""
        if weight not in self._weights:
            base, values = str(weight.name), _float_weight(conv, weight)
            rounded, scales = quantize_weight(values, half_scales=self._half)
            scale = self._constant(f"{base}_scale", scales)
            zero = self._constant(f"{base}_zero_point", np.zeros(len(scales), dtype=np.int8))
            inputs = [self._constant(f"{base}_quantized", rounded), scale, zero]
            self._weights[weight] = self._node(conv, base, "DequantizeLinear", inputs, axis=0)
        return self._weights[weight]

    def _constant(self, wish: str, values: NDArray[Any]) -> ir.Value:
        return add_constant(self._graph, self._names.fresh(wish), values)

    def _node(
        self, reader: ir.Node, base: str, op_type: str, inputs: list[ir.Value], **attributes: int
    ) -> ir.Value:
        """Insert a node before ``reader`` and return its output."""
        suffix = "dequantized" if op_type == "DequantizeLinear" else "quantized"
        output = ir.Value(name=self._names.fresh(f"{base}_{suffix}"))
        name = self._names.fresh(f"{base}_{op_type}")
        node = ir.node(op_type, inputs, attributes, outputs=[output], name=name)
        self._graph.insert_before(reader, node)
        return output


def _float_weight(conv: ir.Node, weight: ir.Value) -> NDArray[np.float32]:
    values = array(weight) if weight.is_initializer() else None
    if values is not None and values.dtype == np.float32 and np.isfinite(values).all():
        return values
    fault = "not an initializer"
    if values is not None:
        fault = "NaN or Inf" if values.dtype == np.float32 else str(values.dtype)
    raise BuildError(
        f"the weights {weight.name!r} of the convolution {node_name(conv)!r} are {fault}",
        "finite float32 constants",
        "export the FP32 model with constant folding, and quantise it once",
    )


def _check(model: ir.Model, ranges: Mapping[str, float], edges: Collection[Edge]) -> None:
    opset = model.opset_imports.get("", 0)
    if opset < _MIN_OPSET:
        raise BuildError(f"a model of opset {opset}", f"opset {_MIN_OPSET} or later")
    for tensor, threshold in ranges.items():
        if not (math.isfinite(threshold) and threshold >= 0):
            raise BuildError(f"the range {threshold} of tensor {tensor!r}", "a finite number >= 0")
    for edge in edges:
        if edge.tensor not in ranges:
            raise BuildError(f"no range for {edge.tensor!r}", "one for each tensor that is rounded")
