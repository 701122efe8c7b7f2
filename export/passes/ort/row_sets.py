"""A tensor as sets of rows: set p of S holds rows p, p + S, p + 2·S … of (N, C, H, W).

``winograd`` computes its output so. To lay the sets between each other costs three copies, so they
stay apart for as long as what follows can be computed on them: operators on each pixel alone, 3x3
convolutions and 2x2 maxima of stride 2, and the tiles of a further Winograd convolution.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dabnet.graph.editing import Insertion
from dabnet.graph.facts import FloatArray, Window, array, channels

Sets = list[ir.Value]


def is_elementwise(node: ir.Node) -> bool:
    """Whether each output pixel is one input pixel's, with constants of each channel."""
    if node.op_type not in ("PRelu", "BatchNormalization"):
        return False
    constants = [array(value) for value in node.inputs[1:]]
    return all(c is not None and (c.ndim == 1 or c.shape[-2:] == (1, 1)) for c in constants)


def halves_size(node: ir.Node) -> bool:
    """Whether this is a dense 3x3 convolution or a 2x2 maximum that halves rows and columns."""
    if node.op_type == "MaxPool":
        kernel = tuple(node.attributes.get_ints("kernel_shape", ()))
        whole = len(node.outputs) == 1 and not node.attributes.get_int("ceil_mode", 0)
        return whole and kernel == (2, 2) and Window.of(node) == Window(strides=(2, 2))
    weight = array(node.inputs[1]) if node.op_type == "Conv" else None
    if weight is None or weight.shape[2:] != (3, 3):
        return False
    return Window.of(node) == Window(strides=(2, 2), pads=(1, 1, 1, 1))


def elementwise(before: Insertion, node: ir.Node, sets: Sets) -> Sets:
    """``node`` (see ``is_elementwise``) on each set."""
    attributes = dict(node.attributes)
    return [before.op(node.op_type, [one, *node.inputs[1:]], attributes) for one in sets]


def halved(before: Insertion, node: ir.Node, sets: Sets) -> Sets:
    """``node`` (see ``halves_size``) on four sets: two sets."""
    if node.op_type == "MaxPool":
        columns = {"kernel_shape": [1, 2], "strides": [1, 2]}
        pooled = [before.op("MaxPool", [one], columns) for one in sets]
        return [_maximum(before, node, *pooled[:2]), _maximum(before, node, *pooled[2:])]
    # Row 2r of the output reads rows 4r - 1, 4r and 4r + 1; row 2r + 1 reads the three that follow.
    weight = array(node.inputs[1])
    assert weight is not None
    above = _shifted_down(before, sets[3], weight.shape[1])
    rows = ([above, *sets[:2]], sets[1:])
    return [_three_rows(before, node, weight, three) for three in rows]


def laid_together(before: Insertion, sets: Sets, rows: int, columns: int) -> ir.Value:
    """(N, C, ``rows``, ``columns``) from the sets; rows beyond the last are cut off."""
    beside = before.op("Concat", sets, {"axis": 3})  # (N, C, H / S, S · W)
    shape = before.constant(np.array([0, 0, -1, columns]), "shape")
    whole = before.op("Reshape", [beside, shape])
    if rows % len(sets) == 0:
        return whole
    bounds = (np.array([0]), np.array([rows]), np.array([2]))
    return before.op("Slice", [whole, *(before.constant(bound, "bound") for bound in bounds)])


def _shifted_down(before: Insertion, value: ir.Value, count: int) -> ir.Value:
    """``value``, of ``count`` channels, one row lower, with zeros above it."""
    taps = np.tile(np.reshape([1.0, 0.0], (1, 1, 2, 1)), (count, 1, 1, 1))
    return before.conv(value, taps, None, {"group": count, "pads": [1, 0, 0, 0]})


def _three_rows(before: Insertion, conv: ir.Node, weight: FloatArray, rows: Sets) -> ir.Value:
    """A strided 3x3 convolution as the sum of three 1x3, one per row of its kernel."""
    attributes = {"strides": [1, 2], "pads": [0, 1, 0, 1], "kernel_shape": [1, 3]}
    kernel = before.constant(weight[:, :, :1], "weight")
    total = before.op("Conv", [rows[0], kernel, *conv.inputs[2:]], attributes)
    for index, row in enumerate(rows[1:], start=1):
        kernel = before.constant(weight[:, :, index : index + 1], "weight")
        total = before.op("Add", [before.op("Conv", [row, kernel], attributes), total])
    return total


def _maximum(before: Insertion, pool: ir.Node, a: ir.Value, b: ir.Value) -> ir.Value:
    """``a + Relu(b - a)``: the blocked layout of CPUs lacks Max."""
    count = channels(pool.outputs[0])
    assert count is not None
    difference = before.op("Add", [before.scale_channels(a, -np.ones(count)), b])
    excess = before.op("Relu", [difference])
    return before.op("Add", [before.scale_channels(a, np.ones(count)), excess])
