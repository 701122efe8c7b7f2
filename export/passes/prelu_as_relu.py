"""PRelu, and the linear operator before it, as pairs of depthwise convolutions, Relu and Add.

onnxruntime's CPU provider keeps convolutions in a blocked layout (NCHWc) and fuses Relu and Add
into them. It has no PRelu in that layout: each one costs a slow kernel and two changes of layout.
With slope a ≤ 1 and y = s·x + b (the BatchNormalization; s = 1 and b = 0 without one)::

    x ─▶ BatchNormalization ─▶ PRelu ─▶ z

    x ─┬▶ Conv 1x1 depthwise, (a-1)·y ─▶ Relu ─┐
       └▶ Conv 1x1 depthwise,       y ─────────┴▶ Add ─▶ z

since (a-1)·y is positive just where y is negative, and y + (a-1)·y = a·y there. onnxruntime fuses
each row into one kernel. Where y comes from a depthwise convolution that nothing else reads, its
weights go into both rows, and it vanishes itself::

    x ─▶ Conv 3x1 depthwise ─▶ PRelu ─▶ z        x ─┬▶ Conv 3x1 depthwise, (a-1)·y ─▶ Relu ─┐
                                                    └▶ Conv 3x1 depthwise,       y ─────────┴▶ Add

A channel with a > 1 subtracts instead: z = y - Relu((1-a)·y). A tensor that has one takes a third
depthwise convolution with the signs -1 and 1 behind the Relu.

Exact but for one rounding. Channels must be a multiple of 8, or the blocked layout would be left
anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.passes.batch_norm import affine_of
from export.passes.editing import (
    FloatArray,
    Insertion,
    array,
    integer,
    nodes_of,
    only_reader,
    replace,
)

BLOCK = 8  # channels of a block on CPUs with AVX2; 16 with AVX-512, where a multiple of 8 is padded


@dataclass(frozen=True, slots=True)
class _Depthwise:
    """y as a depthwise convolution of x; its weights are float64, (C, 1, rows, columns)."""

    x: ir.Value
    weight: FloatArray
    bias: FloatArray | None
    attributes: dict[str, ir.Attr]
    replaced: ir.Node | None

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
        with_what = "alone"
        if linear.replaced is not None:
            with_what = f"with the {linear.replaced.op_type} before it"
            assert linear.replaced.graph is not None
            linear.replaced.graph.remove(linear.replaced, safe=True)
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
    slopes = array(node.inputs[1])
    if slopes is None or slopes.size < BLOCK or slopes.shape[-2:] != (1, 1):
        return None
    return slopes.reshape(-1).astype(np.float64) if slopes.size == slopes.shape[-3] else None


def _linear_before(node: ir.Node, y: ir.Value, channels: int) -> _Depthwise:
    """What computes ``y`` and can be folded into the rows; else y itself, times 1."""
    source = y.producer()
    if source is not None and source.inputs[0] is not None and only_reader(y) is node:
        x = source.inputs[0]
        if source.op_type == "BatchNormalization":
            affine = affine_of(source)
            if affine is not None:
                return _Depthwise(x, affine.scale.reshape(-1, 1, 1, 1), affine.shift, {}, source)
        if source.op_type == "Conv" and integer(source, "group", 1) == channels:
            weight = array(source.inputs[1])
            bias = array(source.inputs[2]) if len(source.inputs) > 2 else None
            if weight is not None and weight.shape[:2] == (channels, 1):
                return _Depthwise(
                    x,
                    weight.astype(np.float64),
                    None if bias is None else bias.astype(np.float64),
                    dict(source.attributes),
                    source,
                )
    return _Depthwise(y, np.ones((channels, 1, 1, 1)), None, {}, None)
