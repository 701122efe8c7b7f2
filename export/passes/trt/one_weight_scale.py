"""Int8 weights with one scale per tensor, the rest of each channel's as a factor behind the sum.

TensorRT-RTX 1.7.1 dequantises inside an int8 convolution, and writes FP16, only if the weights have
one scale; with a scale per channel it writes FP32. Before → after, with scales s and their
geometric mean m::

    x ─▶ Q ─▶ DQ ─┐                                x ─▶ Q ─▶ DQ ─┐
    W ─▶ DQ(s) ───┴▶ Conv(b) ─▶ y                  W ─▶ DQ(m) ───┴▶ Conv ─▶ Mul(s/m) ─▶ Add(b) ─▶ y

The int8 weights are the same. Exact but for roundings of the factors.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dabnet.graph.editing import Insertion, replace
from dabnet.graph.facts import FloatArray, array, is_op, nodes_of


def one_weight_scale(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """Rewrite each Conv whose weights have a scale per output channel."""
    changed = []
    for conv in nodes_of(model.graph, "Conv"):
        x, weight, y = conv.inputs[0], conv.inputs[1], conv.outputs[0]
        dequantised = None if weight is None else weight.producer()
        if x is None or dequantised is None or not is_op(dequantised, "DequantizeLinear"):
            continue
        levels, scales = dequantised.inputs[0], array(dequantised.inputs[1])
        if scales is None or scales.ndim != 1 or dequantised.attributes.get_int("axis", 1) != 0:
            continue
        before, mean = Insertion(conv, f"{y.name}/one_scale"), _geometric_mean(scales)
        zero = before.constant(np.zeros((), np.int8), "zero_point")
        inputs = [levels, before.constant(mean, "scale"), zero]
        weight = before.op("DequantizeLinear", inputs)
        result = before.op("Conv", [x, weight], dict(conv.attributes))
        factor = (scales.astype(np.float64) / float(mean)).astype(scales.dtype)
        result = before.op("Mul", [result, before.constant(factor.reshape(-1, 1, 1), "factor")])
        bias = array(conv.inputs[2]) if len(conv.inputs) > 2 else None
        if bias is not None:
            result = before.op("Add", [result, before.constant(bias.reshape(-1, 1, 1), "bias")])
        replace(y, result)
        changed.append(f"{y.name}: one scale for {len(scales)} channels")
    return model, changed


def _geometric_mean(scales: FloatArray) -> FloatArray:
    """0-dimensional, of the same type."""
    return np.array(np.exp(np.log(scales.astype(np.float64)).mean()), scales.dtype)
