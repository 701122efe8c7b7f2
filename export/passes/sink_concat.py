"""Concat over channels, moved down through channelwise operators and into the convolutions.

Before → after, for parts p and q (BatchNormalization, PRelu and pools act on each channel alone)::

    p ─┐                                         p ─▶ BatchNormalization ─▶ PRelu ─▶ Conv ─┐
    q ─┴▶ Concat ─▶ BatchNormalization ─▶ …      q ─▶ BatchNormalization ─▶ PRelu ─▶ Conv ─┴▶ Add
                       … PRelu ─▶ Conv

A convolution of joined channels is the sum of the convolutions of the parts. Nothing is copied
any more, parts of whole blocks of channels stay in a CPU's blocked layout beside one that does not
(the 3 channels of DABNet's pooled image), and in INT8 each part has a scale of its own. Exact but
for the order of a sum.

A Concat is moved only if it then vanishes: if all that reads it, through channelwise operators, are
ungrouped convolutions and other Concats.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dabnet.graph.editing import Insertion, remove, replace
from dabnet.graph.facts import array, channels, is_conv, is_op, nodes_of

POOLS = ("MaxPool", "AveragePool")

Parts = list[ir.Value | None]


def sink_concat(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """Split what reads each Concat of constant channel counts, until the Concat has vanished."""
    # From the last to the first: a Concat that ends in another finds that one already moved.
    lines = [_sunk(concat) for concat in reversed(nodes_of(model.graph, "Concat"))]
    return model, [line for line in reversed(lines) if line]


def sink_first_concat(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """The same for the first Concat alone, which joins at the highest resolution.

    On TensorRT-RTX 1.7.1 the others only add kernels: their convolutions become sums of two or
    more.
    """
    first = [concat for concat in nodes_of(model.graph, "Concat") if _over_channels(concat)][:1]
    return model, [line for line in map(_sunk, first) if line]


def _sunk(concat: ir.Node) -> str:
    """Split what reads a Concat, and say so; "" if it would not vanish."""
    sizes = [size for size in map(channels, concat.inputs) if size is not None]
    known = _over_channels(concat) and len(sizes) == len(concat.inputs)
    if not known or not _vanishes(concat.outputs[0]):
        return ""
    line = f"{concat.outputs[0].name}: split into channels {sizes}"
    _sink(concat.outputs[0], list(concat.inputs), sizes)
    remove(concat)
    return line


def _over_channels(node: ir.Node) -> bool:
    return is_op(node, "Concat") and node.attributes.get_int("axis", 0) == 1


def _vanishes(joined: ir.Value) -> bool:
    """Whether all that reads ``joined`` can read its parts instead."""
    if joined.is_graph_output() or not joined.uses():
        return False
    for node, index in joined.uses():
        if _over_channels(node):
            continue
        if index != 0:
            return False
        if is_conv(node):
            if node.attributes.get_int("group", 1) != 1 or array(node.inputs[1]) is None:
                return False
        elif not _is_channelwise(node) or not _vanishes(node.outputs[0]):
            return False
    return True


def _is_channelwise(node: ir.Node) -> bool:
    if node.op_type in POOLS:
        return len(node.outputs) == 1
    if node.op_type == "BatchNormalization":
        return all(array(value) is not None for value in node.inputs[1:5])
    if node.op_type == "PRelu":
        slopes = array(node.inputs[1])
        return slopes is not None and (slopes.size == 1 or slopes.ndim == 3)
    return False


def _sink(joined: ir.Value, parts: Parts, sizes: list[int]) -> None:
    for node in joined.consumers():
        if is_op(node, "Concat"):
            position = list(node.inputs).index(joined)
            inputs = [*node.inputs[:position], *parts, *node.inputs[position + 1 :]]
            before = Insertion(node, f"{node.outputs[0].name}/joined")
            replace(node.outputs[0], before.op("Concat", inputs, dict(node.attributes)))
        elif is_conv(node):
            _split_conv(node, parts, sizes)
        else:
            split: Parts = [
                _slice_of(node, part, start, size) for part, start, size in _located(parts, sizes)
            ]
            _sink(node.outputs[0], split, sizes)
            remove(node)


def _located(parts: Parts, sizes: list[int]) -> list[tuple[ir.Value | None, int, int]]:
    starts = np.cumsum([0, *sizes[:-1]])
    return [(part, int(s), size) for part, s, size in zip(parts, starts, sizes, strict=True)]


def _slice_of(node: ir.Node, part: ir.Value | None, start: int, size: int) -> ir.Value:
    """A channelwise ``node`` on the ``size`` channels from ``start``."""
    before = Insertion(node, f"{node.outputs[0].name}/channels_{start}")
    constants: Parts = []
    for value in node.inputs[1:]:  # of each channel, but for one slope of all
        values = array(value)
        if values is not None and values.size > 1:
            value = before.constant(values[start : start + size], "constant")
        constants.append(value)
    new = before.op(node.op_type, [part, *constants], dict(node.attributes))
    new.type = node.outputs[0].type
    shape = node.outputs[0].shape
    if shape is not None:
        new.shape = ir.Shape([shape[0], size, shape[2], shape[3]])
    return new


def _split_conv(conv: ir.Node, parts: Parts, sizes: list[int]) -> None:
    before = Insertion(conv, conv.outputs[0].name or "conv")
    weight = array(conv.inputs[1])
    assert weight is not None
    total: ir.Value | None = None
    for part, start, size in _located(parts, sizes):
        inputs = [part, before.constant(weight[:, start : start + size], f"weight_{start}")]
        if total is None:
            inputs += conv.inputs[2:]
        term = before.op("Conv", inputs, dict(conv.attributes))
        total = term if total is None else before.op("Add", [total, term])
    assert total is not None
    replace(conv.outputs[0], total)
