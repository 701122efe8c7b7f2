"""Write int8 into an ONNX graph as QuantizeLinear / DequantizeLinear on edges of a placement.

Before → after, for each Conv (the other operators have no weights, and get the first line alone):

    x ────────────────▶ Conv            x ─▶ Q ─▶ DQ ─▶ Conv
    W (float32) ──────▶                 W (int8) ─▶ DQ ─▶
    B (float32) ──────▶                 B (float32) ─────▶

Only that edge changes: whatever else reads x goes on reading the float x. All is symmetric int8
with zero point 0 and the bias stays float, because TensorRT's parser refuses anything else.

**The guard at Concats.** What a Concat joins gets one scale, and so does what reads the joined
tensor. DABNet's join the pooled image (±150) with features (±2 to ±30), and one scale for both
leaves the features few of its levels. Where the ranges of a Concat's inputs differ by more than
``LARGEST_RANGE_RATIO``, its edges stay float (``export.passes.scale_image`` brings them together).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from calibration.placements import Edge, conv_edges, is_conv
from calibration.ranges import LEVELS
from dabnet.errors import BuildError

# Largest ratio of the ranges that may share one scale at a Concat: two of the eight bits.
LARGEST_RANGE_RATIO = 4.0

# Smallest scale written. An all-zero channel or tensor would have scale 0, a division by zero; at
# 2**-60 the product of two scales is still a normal FP32 number. FP16 holds no smaller than 2**-24.
MIN_SCALE = 2.0**-60
MIN_HALF_SCALE = 2.0**-24

# DequantizeLinear has an axis, hence per-channel scales, since this version of the operator set.
_MIN_OPSET = 13


def conv_inputs(model: onnx.ModelProto) -> list[str]:
    """Return the distinct tensors that feed a Conv (not a ConvTranspose), in graph order."""
    return list(dict.fromkeys(edge.tensor for edge in conv_edges(model)))


def insert_qdq(
    model: onnx.ModelProto,
    ranges: Mapping[str, float],
    edges: Collection[Edge] | None = None,
    *,
    half_scales: bool = False,
) -> tuple[onnx.ModelProto, list[str]]:
    """Return a copy of the model with int8 edges, and one line per edge that a policy changed.

    Args:
        model: an FP32 graph, opset 13 or later, topologically sorted. It is not modified.
        ranges: tensor name → threshold t >= 0 (scale t / 127). It may name more tensors than the
            edges round; the guard compares the inputs of a Concat where it names all of them.
        edges: what to round, from ``calibration.placements``; each tensor must have a range. None
            takes the inputs of the convolutions that ``ranges`` names.
        half_scales: each scale is a number that FP16 holds exactly, so that a conversion of the
            graph to FP16 changes none.

    Raises:
        BuildError: a range is missing, negative or not finite, or (without ``edges``) names a
            tensor that feeds no Conv; the weights of a Conv are not a float32 initializer; the
            opset is below 13.
    """
    if edges is None:
        _require_conv_inputs(model, ranges)
        edges = [edge for edge in conv_edges(model) if edge.tensor in ranges]
    _check(model, ranges, edges)
    thresholds, lines = _thresholds(model, ranges, edges)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    rewriter = _Rewriter(result.graph, half_scales)
    del result.graph.node[:]
    for source in model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(source)
        where = node.name or node.output[0]
        for index, tensor in enumerate(source.input):
            threshold = thresholds.get((source.output[0], index))
            if threshold is None:
                continue
            node.input[index] = rewriter.quantized_activation(tensor, threshold)
            line = f"{where}: {tensor} int8 in ±{threshold:.6g}"
            if is_conv(node):
                node.input[1] = rewriter.quantized_weight(node.input[1], where)
                line += f", {source.input[1]} int8"
            lines.append(line)
        result.graph.node.append(node)
    rewriter.remove_unread_weights()
    return result, lines


def _thresholds(
    model: onnx.ModelProto, ranges: Mapping[str, float], edges: Collection[Edge]
) -> tuple[dict[tuple[str, int], float], list[str]]:
    """The threshold of each edge, (reader, index) → t, and a line for each that stays float."""
    inputs_of = {n.output[0]: list(n.input) for n in model.graph.node if n.op_type == "Concat"}
    shared, lines = {}, []
    for joined, parts in inputs_of.items():
        found = [ranges[part] for part in parts if part in ranges]
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
        of_concat = edge.reader if edge.reader in inputs_of else edge.tensor
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
    """float32 t / 127 of any shape; to FP16's next number above where it must be one."""
    scales = np.maximum(thresholds / np.float32(LEVELS), MIN_HALF_SCALE if half else MIN_SCALE)
    if half:
        rounded = scales.astype(np.float16)
        above = np.nextafter(rounded, np.float16(np.inf))
        scales = np.where(rounded < scales, above, rounded)  # below, the largest would be clipped
    result: NDArray[np.float32] = scales.astype(np.float32)
    return result


class _Rewriter:
    """Adds pairs and initializers to a graph, one pair per tensor however many Convs read it."""

    def __init__(self, graph: Any, half_scales: bool) -> None:
        self._graph = graph
        self._half = half_scales
        # An initializer that is also an input can be overridden by the caller: not a constant.
        inputs = {item.name for item in graph.input}
        self._weights = {i.name: i for i in graph.initializer if i.name not in inputs}
        self._taken = set(_names(graph))
        self._activations: dict[tuple[str, float], str] = {}
        self._dequantized: dict[str, str] = {}

    def quantized_activation(self, tensor: str, threshold: float) -> str:
        """Append the pair of ``tensor`` once a range; return the name of its output."""
        key = (tensor, threshold)
        if key not in self._activations:
            scale = _scales(np.array(threshold), self._half)
            scale_name = self._initializer(f"{tensor}_scale", scale)
            zero_name = self._initializer(f"{tensor}_zero_point", np.array(0, dtype=np.int8))
            self._activations[key] = self._dequantize(
                tensor,
                self._node("QuantizeLinear", [tensor, scale_name, zero_name], tensor, "quantized"),
                [scale_name, zero_name],
            )
        return self._activations[key]

    def quantized_weight(self, weight: str, where: str) -> str:
        """Add the int8 copy of ``weight`` once; return the name of its dequantised form."""
        if weight not in self._dequantized:
            values = self._float_weight(weight, where)
            quantized, scales = quantize_weight(values, half_scales=self._half)
            parameters = [
                self._initializer(f"{weight}_scale", scales),
                self._initializer(f"{weight}_zero_point", np.zeros(len(scales), dtype=np.int8)),
            ]
            name = self._initializer(f"{weight}_quantized", quantized)
            self._dequantized[weight] = self._dequantize(weight, name, parameters, axis=0)
        return self._dequantized[weight]

    def remove_unread_weights(self) -> None:
        """Drop the float weights that only convolutions had read."""
        read = {name for node in self._graph.node for name in node.input}
        read.update(output.name for output in self._graph.output)
        unread = self._dequantized.keys() - read
        for field in (self._graph.initializer, self._graph.value_info):
            for index in reversed(range(len(field))):
                if field[index].name in unread:
                    del field[index]

    def _float_weight(self, weight: str, where: str) -> NDArray[np.float32]:
        tensor = self._weights.get(weight)
        if tensor is None:
            raise BuildError(
                f"the weights {weight!r} of the convolution {where!r} are not an initializer",
                "constant FP32 weights",
                "export the FP32 model with constant folding, and quantise it once",
            )
        values: NDArray[np.float32] = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or not np.isfinite(values).all():
            raise BuildError(
                f"the weights {weight!r} of the convolution {where!r} are {values.dtype}"
                + ("" if np.isfinite(values).all() else " with NaN or Inf"),
                "finite float32 weights",
                "quantise the FP32 model",
            )
        return values

    def _dequantize(self, base: str, name: str, parameters: list[str], **attributes: int) -> str:
        return self._node(
            "DequantizeLinear", [name, *parameters], base, "dequantized", **attributes
        )

    def _node(
        self, op_type: str, inputs: list[str], base: str, suffix: str, **attributes: int
    ) -> str:
        output = self._fresh(f"{base}_{suffix}")
        name = self._fresh(f"{base}_{op_type}")
        self._graph.node.append(
            helper.make_node(op_type, inputs, [output], name=name, **attributes)
        )
        return output

    def _initializer(self, wish: str, values: NDArray[Any]) -> str:
        name = self._fresh(wish)
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def _fresh(self, wish: str) -> str:
        name, number = wish, 1
        while name in self._taken:
            number += 1
            name = f"{wish}_{number}"
        self._taken.add(name)
        return name


def _names(graph: Any) -> Iterator[str]:
    for field in (graph.input, graph.output, graph.initializer):
        yield from (item.name for item in field)
    for node in graph.node:
        yield from node.input
        yield from node.output


def _require_conv_inputs(model: onnx.ModelProto, ranges: Mapping[str, float]) -> None:
    feeding = set(conv_inputs(model))
    for tensor in ranges:
        if tensor not in feeding:
            raise BuildError(
                f"a range for {tensor!r}, which feeds no convolution", "a Conv's input"
            )


def _check(model: onnx.ModelProto, ranges: Mapping[str, float], edges: Collection[Edge]) -> None:
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < _MIN_OPSET:
        raise BuildError(f"a model of opset {opset}", f"opset {_MIN_OPSET} or later")
    for tensor, threshold in ranges.items():
        if not (math.isfinite(threshold) and threshold >= 0):
            raise BuildError(f"the range {threshold} of tensor {tensor!r}", "a finite number >= 0")
    for edge in edges:
        if edge.tensor not in ranges:
            raise BuildError(f"no range for {edge.tensor!r}", "one for each tensor that is rounded")
