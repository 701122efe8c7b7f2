"""Depthwise 3x1 and 1x3 convolutions as three shifted products, which TensorRT-RTX fuses.

A generated kernel of TensorRT-RTX 1.7.1 takes pads, slices, products and sums of one module in:
both depthwise branches, their sum, the BatchNormalization and the activation are one kernel.
Convolutions are a kernel each, with channels padded per group in int8 and on sm75. Before → after,
for taps w and dilation d along one axis::

    x ─▶ Conv 3x1 depthwise(w) ─▶ y      x ─┬▶ Pad(d) ─┬▶ Slice, d before ─▶ Mul(w_0) ─┐
                                            │          └▶ Slice, d behind ─▶ Mul(w_2) ─┤
                                            └─────────────────────────────▶ Mul(w_1) ──┴▶ Add ─▶ y

Exact but for the order of a sum and, in FP16, for its roundings. A convolution of int8 stays.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dabnet.graph.editing import SLICE_END, Insertion, conv_constants, replace
from dabnet.graph.facts import Window, is_op, nodes_of


def depthwise_as_taps(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """Rewrite each depthwise convolution of three taps in a line that keeps the size."""
    changed = []
    for conv in nodes_of(model.graph, "Conv"):
        axis = _axis(conv)
        if axis is not None:
            y = conv.outputs[0]
            replace(y, _sum_of_taps(Insertion(conv, f"{y.name}/taps"), conv, axis))
            changed.append(f"{y.name}: three taps along axis {axis}")
    return model, changed


def _axis(conv: ir.Node) -> int | None:
    """2 for 3x1, 3 for 1x3; None for any other convolution."""
    constants, window = conv_constants(conv), Window.of(conv)
    x = conv.inputs[0]
    if constants is None or x is None or is_op(x.producer(), "DequantizeLinear"):
        return None
    outputs, inputs, *kernel = constants[0].shape
    if inputs != 1 or outputs != window.group or sorted(kernel) != [1, 3]:
        return None
    axis = 2 if kernel[0] == 3 else 3
    pads = [0, 0, 0, 0]
    pads[axis - 2] = pads[axis] = window.dilations[axis - 2]
    fits = Window(dilations=window.dilations, pads=tuple(pads), group=window.group)
    return axis if window == fits else None


def _sum_of_taps(before: Insertion, conv: ir.Node, axis: int) -> ir.Value:
    constants, x = conv_constants(conv), conv.inputs[0]
    assert constants is not None and x is not None
    weight, bias = constants
    taps = weight.reshape(-1, 3, 1, 1)  # (C, 3, 1, 1)
    dilation = Window.of(conv).dilations[axis - 2]

    def number(*values: int) -> ir.Value:
        return before.constant(np.array(values, np.int64), "number")

    def times(value: ir.Value, tap: int) -> ir.Value:
        return before.op("Mul", [value, before.constant(taps[:, tap], "tap")])

    pads = [0] * 8
    pads[axis] = pads[axis + 4] = dilation
    wide = before.op("Pad", [x, number(*pads)])
    first = before.op("Slice", [wide, number(0), number(-2 * dilation), number(axis)])
    last = before.op("Slice", [wide, number(2 * dilation), number(SLICE_END), number(axis)])
    total = before.op("Add", [times(first, 0), times(x, 1)])
    total = before.op("Add", [total, times(last, 2)])
    if bias is not None:
        total = before.op("Add", [total, before.constant(bias.reshape(-1, 1, 1), "bias")])
    return total
