"""Write int8 into an ONNX graph as QuantizeLinear / DequantizeLinear around its convolutions.

Before → after, for each Conv:

    x ────────────────▶ Conv            x ─▶ Q ─▶ DQ ─▶ Conv
    W (float32) ──────▶                 W (int8) ─▶ DQ ─▶
    B (float32) ──────▶                 B (float32) ─────▶

Only that edge changes: pools, Add and Concat go on reading the float x. A pair on DABNet's Concats
would put the pooled image (±150) and the features (±8 to ±32) under one scale, which costs some
17 points of mIoU. All is symmetric int8 with zero point 0 and the bias stays float, because
TensorRT's parser refuses anything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from dabnet.errors import BuildError

LEVELS = 127  # -128 is left out, so that the levels are symmetric around 0

# Smallest scale written. An all-zero channel or tensor would have scale 0, a division by zero; at
# 2**-60 the product of two scales is still a normal FP32 number.
MIN_SCALE = 2.0**-60

# DequantizeLinear has an axis, hence per-channel scales, since this version of the operator set.
_MIN_OPSET = 13


def conv_inputs(model: onnx.ModelProto) -> list[str]:
    """Return the distinct tensors that feed a Conv (not a ConvTranspose), in graph order."""
    return list(dict.fromkeys(node.input[0] for node in model.graph.node if _is_conv(node)))


def insert_qdq(
    model: onnx.ModelProto, ranges: dict[str, float]
) -> tuple[onnx.ModelProto, list[str]]:
    """Return a copy of the model with int8 convolutions, and one line per convolution changed.

    Args:
        model: an FP32 graph, opset 13 or later, topologically sorted. It is not modified.
        ranges: tensor name → threshold t >= 0 (scale t / 127). A Conv whose input is not named
            here stays float, so that sensitive layers can be left out.

    Raises:
        BuildError: a range is negative, not finite, or names a tensor that feeds no Conv; the
            weights of a Conv are not a float32 initializer; the opset is below 13.
    """
    _check(model, ranges)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    rewriter = _Rewriter(result.graph)
    del result.graph.node[:]
    changed = []
    for source in model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(source)
        if _is_conv(node) and node.input[0] in ranges:
            tensor, weight = node.input[:2]
            where = node.name or node.output[0]
            node.input[0] = rewriter.quantized_activation(tensor, ranges[tensor])
            node.input[1] = rewriter.quantized_weight(weight, where)
            changed.append(f"{where}: {tensor} int8 in ±{ranges[tensor]:.6g}, {weight} int8")
        result.graph.node.append(node)
    rewriter.remove_unread_weights()
    return result, changed


def quantize_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise a kernel per output channel, symmetrically, with its largest |w| as the range.

    Args:
        weight: float32, (O, ...), finite.

    Returns:
        int8 of the same shape in [-127, 127], and float32 (O,) scales > 0. The error is at most
        half a scale per weight.
    """
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)  # (O,)
    scales = np.maximum(largest / np.float32(LEVELS), np.float32(MIN_SCALE)).astype(np.float32)
    steps = weight / scales.reshape(-1, *[1] * (weight.ndim - 1))
    # FP32 division may end a hair above 127.
    return np.clip(np.rint(steps), -LEVELS, LEVELS).astype(np.int8), scales


class _Rewriter:
    """Adds pairs and initializers to a graph, one pair per tensor however many Convs read it."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        # An initializer that is also an input can be overridden by the caller: not a constant.
        inputs = {item.name for item in graph.input}
        self._weights = {i.name: i for i in graph.initializer if i.name not in inputs}
        self._taken = set(_names(graph))
        self._activations: dict[str, str] = {}
        self._dequantized: dict[str, str] = {}

    def quantized_activation(self, tensor: str, threshold: float) -> str:
        """Append the pair of ``tensor`` once; return the name of its output."""
        if tensor not in self._activations:
            scale = np.array(max(threshold / LEVELS, MIN_SCALE), dtype=np.float32)
            scale_name = self._initializer(f"{tensor}_scale", scale)
            zero_name = self._initializer(f"{tensor}_zero_point", np.array(0, dtype=np.int8))
            self._activations[tensor] = self._dequantize(
                tensor,
                self._node("QuantizeLinear", [tensor, scale_name, zero_name], tensor, "quantized"),
                [scale_name, zero_name],
            )
        return self._activations[tensor]

    def quantized_weight(self, weight: str, where: str) -> str:
        """Add the int8 copy of ``weight`` once; return the name of its dequantised form."""
        if weight not in self._dequantized:
            values = self._float_weight(weight, where)
            quantized, scales = quantize_weight(values)
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
        name = f"{base}_{op_type}"
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


def _is_conv(node: Any) -> bool:
    return node.op_type == "Conv" and node.domain in ("", "ai.onnx")


def _names(graph: Any) -> Iterator[str]:
    for field in (graph.input, graph.output, graph.initializer):
        yield from (item.name for item in field)
    for node in graph.node:
        yield from node.input
        yield from node.output


def _check(model: onnx.ModelProto, ranges: dict[str, float]) -> None:
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < _MIN_OPSET:
        raise BuildError(f"a model of opset {opset}", f"opset {_MIN_OPSET} or later")
    feeding = set(conv_inputs(model))
    for tensor, threshold in ranges.items():
        if tensor not in feeding:
            raise BuildError(
                f"a range for {tensor!r}, which feeds no convolution", "a Conv's input"
            )
        if not (math.isfinite(threshold) and threshold >= 0):
            raise BuildError(f"the range {threshold} of tensor {tensor!r}", "a finite number >= 0")
