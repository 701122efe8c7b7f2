"""Int8 weights with one scale per tensor, the rest of each channel's as a factor behind the sum.

TensorRT-RTX 1.7.1 dequantises inside an int8 convolution, and writes FP16, only if the weights have
one scale; with a scale per channel it writes FP32. Before → after, with scales s and their
geometric mean m::

    x ─▶ Q ─▶ DQ ─┐                                x ─▶ Q ─▶ DQ ─┐
    W ─▶ DQ(s) ───┴▶ Conv(b) ─▶ y                  W ─▶ DQ(m) ───┴▶ Conv ─▶ Mul(s/m) ─▶ Add(b) ─▶ y

The int8 weights are the same. Exact but for roundings: in FP16 the sum, its product and its bias
are rounded one after the other. A convolution stays whose smallest scale is below m / 16: its sum
could overflow.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dabnet.graph.editing import Insertion, replace
from dabnet.graph.facts import FloatArray, array, is_op, nodes_of, source

LARGEST_RATIO = 16.0


def one_weight_scale(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """Rewrite each two-dimensional Conv of symmetric int8 weights, a scale per output channel."""
    changed = []
    for conv in nodes_of(model.graph, "Conv"):
        found = _quantised(conv)
        if found is None:
            continue
        x, y, (levels, scales, bias) = conv.inputs[0], conv.outputs[0], found
        mean = _geometric_mean(scales)
        before = Insertion(conv, f"{y.name}/one_scale")
        zero = before.constant(np.zeros((), np.int8), "zero_point")
        inputs = [levels, before.constant(mean, "scale"), zero]
        weight = before.op("DequantizeLinear", inputs)
        result = before.op("Conv", [x, weight], dict(conv.attributes))
        factor = (scales.astype(np.float64) / float(mean)).astype(scales.dtype)
        result = before.op("Mul", [result, before.constant(factor.reshape(-1, 1, 1), "factor")])
        if bias is not None:
            result = before.op("Add", [result, before.constant(bias.reshape(-1, 1, 1), "bias")])
        replace(y, result)
        changed.append(f"{y.name}: one scale for {len(scales)} channels")
    return model, changed


def _quantised(conv: ir.Node) -> tuple[ir.Value, FloatArray, FloatArray | None] | None:
    """Int8 weights, a scale per output channel, and the bias; None for any other convolution."""
    node = source(conv, 1)
    if node is None or not is_op(node, "DequantizeLinear"):
        return None
    levels, scales = node.inputs[0], array(node.inputs[1])
    zero = array(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1)
    given = conv.inputs[2] if len(conv.inputs) > 2 else None
    bias, shape = array(given), None if levels is None else levels.shape
    fits = (
        scales is not None
        and scales.ndim == 1
        and node.attributes.get_int("axis", 1) == 0
        and zero is not None
        and not zero.any()
        and shape is not None
        and len(shape) == 4
        and (given is None or bias is not None)
    )
    if not fits or levels is None or scales is None or levels.dtype != ir.DataType.INT8:
        return None
    sound = scales.min() > 0 and _geometric_mean(scales) <= LARGEST_RATIO * scales.min()
    return (levels, scales, bias) if sound else None


def _geometric_mean(scales: FloatArray) -> FloatArray:
    """0-dimensional, of the same type."""
    return np.array(np.exp(np.log(scales.astype(np.float64)).mean()), scales.dtype)
