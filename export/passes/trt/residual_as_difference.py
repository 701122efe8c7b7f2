"""The residual as a difference, so that TensorRT keeps what follows the sum in its kernel.

TensorRT-RTX 1.7.1 fuses a convolution and an Add first, and leaves the BatchNormalization and
activation behind a sum that is also read elsewhere alone. A Sub it fuses later, with both results
as outputs of one kernel. Before → after::

    h ─▶ Conv(W, b) ─┐                  h ─▶ Conv(-W, -b) ─┐
    x ───────────────┴▶ Add ─▶ y        x ─────────────────┴▶ Sub ─▶ y

Exact: a change of sign rounds nothing.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dabnet.graph.editing import Insertion, remove, replace
from dabnet.graph.facts import array, is_conv, is_op, nodes_of, only_reader


def residual_as_difference(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """Rewrite each Add of a convolution, which it alone reads, whose sum has several readers."""
    changed = []
    for add in nodes_of(model.graph, "Add"):
        y = add.outputs[0]
        convs = [i for i, value in enumerate(add.inputs) if _conv_behind(value, add)]
        if len(convs) != 1 or len(y.uses()) < 2:
            continue
        conv, x = _conv_behind(add.inputs[convs[0]], add), add.inputs[1 - convs[0]]
        assert conv is not None
        before = Insertion(add, f"{y.name}/difference")
        negative = [_negated(before, value) for value in conv.inputs[1:]]
        if None in negative:
            continue
        minus = before.op("Conv", [conv.inputs[0], *negative], dict(conv.attributes))
        replace(y, before.op("Sub", [x, minus]))
        remove(conv)
        changed.append(f"{y.name}: minus a convolution of negative weights")
    return model, changed


def _conv_behind(value: ir.Value | None, add: ir.Node) -> ir.Node | None:
    """The convolution that computes ``value``, if ``add`` alone reads it."""
    node = None if value is None else value.producer()
    alone = value is not None and only_reader(value) is add
    return node if node is not None and is_conv(node) and alone else None


def _negated(before: Insertion, value: ir.Value | None) -> ir.Value | None:
    """Minus a constant, past a DequantizeLinear of int8 in -127…127 around 0; else None."""
    node = None if value is None else value.producer()
    if node is not None and is_op(node, "DequantizeLinear"):
        values, zero = (array(node.inputs[i]) if i < len(node.inputs) else None for i in (0, 2))
        symmetric = zero is None or not zero.any()
        if values is None or values.dtype != np.int8 or values.min() < -127 or not symmetric:
            return None
        levels = before.constant(-values, "negative")
        return before.op("DequantizeLinear", [levels, *node.inputs[1:]], dict(node.attributes))
    values = array(value)
    return None if values is None else before.constant(-values, "negative")
