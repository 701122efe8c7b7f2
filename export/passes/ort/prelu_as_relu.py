"""PRelu, and the linear operator before it, as pairs of depthwise convolutions, Relu and Add.

onnxruntime's CPU provider keeps convolutions in a blocked layout (NCHWc) and fuses Relu and Add
into them. It lacks PRelu in that layout: each one costs a slow kernel and two changes of layout.
With slope a ≤ 1 and y = s·x + b (the BatchNormalization; s = 1 and b = 0 without one)::

    x ─▶ BatchNormalization ─▶ PRelu ─▶ z

    x ─┬▶ Conv 1x1 depthwise, (a-1)·y ─▶ Relu ─┐
       └▶ Conv 1x1 depthwise,       y ─────────┴▶ Add ─▶ z

since (a-1)·y is positive just where y is negative, and y + (a-1)·y = a·y there. onnxruntime fuses
each row into one kernel. If y comes from a depthwise convolution that nothing else reads, its
weights go into both rows, and it vanishes itself::

    x ─▶ Conv 3x1 depthwise ─▶ PRelu ─▶ z        x ─┬▶ Conv 3x1 depthwise, (a-1)·y ─▶ Relu ─┐
                                                    └▶ Conv 3x1 depthwise,       y ─────────┴▶ Add

A channel with a > 1 subtracts instead: z = y - Relu((1-a)·y). A tensor with such a channel takes a
third depthwise convolution, with the signs -1 and 1, behind the Relu.

Exact but for one rounding. Channels must be a multiple of 8, or the blocked layout would be left
anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from dabnet.graph.editing import Insertion, conv_constants, remove, replace, scale_and_shift
from dabnet.graph.facts import FloatArray, array, channels, is_conv, nodes_of, only_reader

BLOCK = 8  # channels of a block on CPUs with AVX2; 16 with AVX-512, where a multiple of 8 is padded


@dataclass(frozen=True, slots=True)
class _Depthwise:
    """y as a depthwise convolution of x; its weights are float64, (C, 1, rows, columns)."""

    x: ir.Value
    weight: FloatArray
    bias: FloatArray | None = None
    attributes: dict[str, ir.Attr] = field(default_factory=dict)
    replaced: ir.Node | None = None

    def times(self, before: Insertion, factor: FloatArray) -> ir.Value:
        """Insert ``factor[c] * y``."""
        weight = self.weight * factor.reshape(-1, 1, 1, 1)
        bias = None if self.bias is None else self.bias * factor
        return before.conv(self.x, weight, bias, {"group": len(factor), **self.attributes})


def prelu_as_relu(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """Rewrite each PRelu with constant slopes for (N, C, H, W) tensors, C a multiple of 8."""
    changed = []
    for node in nodes_of(model.graph, "PRelu"):
        slopes = _slopes(node)
        if node.inputs[0] is None or slopes is None or len(slopes) % BLOCK:
            continue
        base = node.outputs[0].name or "prelu"
        linear = _linear_before(node, node.inputs[0], len(slopes))
        replace(node.outputs[0], _two_rows(Insertion(node, base), linear, slopes))
        remove(linear.replaced)
        source = linear.replaced.op_type if linear.replaced is not None else ""
        with_what = f"with the {source} before it" if source else "alone"
        changed.append(f"{base}: PRelu of {len(slopes)} channels, {with_what}")
    return model, changed


def _two_rows(before: Insertion, linear: _Depthwise, slopes: FloatArray) -> ir.Value:
    sign = np.where(slopes > 1, -1.0, 1.0)
    correction = before.op("Relu", [linear.times(before, sign * (slopes - 1))])
    if (sign < 0).any():
        correction = before.scale_channels(correction, sign)
    return before.op("Add", [linear.times(before, np.ones(len(slopes))), correction])


def _slopes(node: ir.Node) -> FloatArray | None:
    """(C,) slopes of a PRelu over channels; None if they are anything else."""
    slopes, count = array(node.inputs[1]), channels(node.outputs[0])
    if slopes is not None and slopes.size == 1 and count is not None:
        return np.full(count, float(slopes.reshape(())))
    if slopes is None or slopes.size < BLOCK or slopes.shape[-2:] != (1, 1):
        return None
    return slopes.reshape(-1).astype(np.float64) if slopes.size == slopes.shape[-3] else None


def _linear_before(node: ir.Node, y: ir.Value, channels: int) -> _Depthwise:
    """The node that computes ``y``, if it can be folded into the rows; else y itself, times 1."""
    source = y.producer()
    if source is not None and source.inputs[0] is not None and only_reader(y) is node:
        x = source.inputs[0]
        if source.op_type == "BatchNormalization" and (affine := scale_and_shift(source)):
            return _Depthwise(x, affine[0].reshape(-1, 1, 1, 1), affine[1], {}, source)
        constants = conv_constants(source) if is_conv(source) else None
        if constants is not None and source.attributes.get_int("group", 1) == channels:
            weight, bias = (c if c is None else c.astype(np.float64) for c in constants)
            if weight is not None and weight.shape[:2] == (channels, 1):
                return _Depthwise(x, weight, bias, dict(source.attributes), source)
    return _Depthwise(y, np.ones((channels, 1, 1, 1)))
