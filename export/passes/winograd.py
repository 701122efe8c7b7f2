"""Dense 3x3 convolutions by Winograd's minimal filtering F(4, 3) along the rows: half the products.

A. Lavin, S. Gray, *Fast Algorithms for Convolutional Neural Networks*, CVPR 2016, section 4. Four
rows of the output need 6 products per column tap instead of 12. In one dimension the transforms
are cheap enough to be depthwise convolutions, which onnxruntime's CPU provider runs in its blocked
layout::

    x ─▶ Conv 3x3 ─▶ y

    x ─▶ Conv 6x1 depthwise, stride 4, six times (rows of B) ─▶ t_0 … t_5      (H/4 rows each)
    t_i ─▶ Conv 1x3 with the weights transformed by row i of G ─▶ m_i
    m_i ─▶ sums (rows of A) ─▶ y_0 … y_3: rows 0, 4, 8 …; rows 1, 5, 9 …; …
    y_0 … y_3 ─▶ Concat over the columns ─▶ Reshape ─▶ y

Weights are transformed in float64. Stated error: that of float32 with other sums, some 1e-6 of the
values' range, ten times that of the direct sum; the mask stays the same but for ties.

Worth it where the convolution, not memory, is the limit: from 64 input channels. Measured and not
taken: F(8, 3) (fewer products, but as much more to transform), sets of rows kept apart between two
such convolutions of 32 channels (no gain).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.passes.editing import Insertion, array, integer, ints, nodes_of, replace

TILE = 4  # rows of output of one tile
MIN_INPUTS = 64
MIN_OUTPUTS = 16

# Rows of B^T over the taps they read: (first tap, step between taps, weights).
INPUT_ROWS = (
    (0, 2, (4.0, -5.0, 1.0)),
    (1, 1, (-4.0, -4.0, 1.0, 1.0)),
    (1, 1, (4.0, -4.0, -1.0, 1.0)),
    (1, 1, (-2.0, -1.0, 2.0, 1.0)),
    (1, 1, (2.0, -1.0, -2.0, 1.0)),
    (1, 2, (4.0, -5.0, 1.0)),
)
G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)


def winograd(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """Rewrite each 3x3 convolution of stride 1 whose output has a known size."""
    changed = []
    for conv in nodes_of(model.graph, "Conv"):
        x, y = conv.inputs[0], conv.outputs[0]
        if x is None or not _fits(conv):
            continue
        weight = np.asarray(array(conv.inputs[1]), np.float64)
        bias = array(conv.inputs[2]) if len(conv.inputs) > 2 else None
        rows, columns = _sides(y)
        before = Insertion(conv, f"{y.name}/winograd")
        tiles = _tiles(before, x, weight.shape[1], rows)
        sets = _sets_of_rows(before, tiles, weight, bias)
        changed.append(f"{y.name}: {weight.shape[1]} to {weight.shape[0]} channels")
        replace(y, _laid_together(before, sets, rows, columns))
    return model, changed


def _sides(value: ir.Value) -> tuple[int, int]:
    """Rows and columns of a (N, C, H, W) tensor; 0 where unknown."""
    shape = value.shape
    sides = [0, 0] if shape is None else [s if isinstance(s, int) else 0 for s in shape[2:4]]
    return sides[0], sides[1]


def _fits(conv: ir.Node) -> bool:
    weight = array(conv.inputs[1])
    constant_bias = len(conv.inputs) < 3 or array(conv.inputs[2]) is not None
    return (
        weight is not None
        and constant_bias
        and weight.shape[0] >= MIN_OUTPUTS
        and weight.shape[1] >= MIN_INPUTS
        and weight.shape[2:] == (3, 3)
        and integer(conv, "group", 1) == 1
        and set(ints(conv, "strides", (1, 1))) == {1}
        and set(ints(conv, "dilations", (1, 1))) == {1}
        and ints(conv, "pads") == (1, 1, 1, 1)
        and 0 not in _sides(conv.outputs[0])
    )


def _tiles(before: Insertion, x: ir.Value, channels: int, rows: int) -> list[ir.Value]:
    """t_i: (N, C, H/4, W) each. Tap k of tile r is row 4r - 1 + k of x; outside are zeros."""
    tiles = []
    beyond = -rows % TILE  # rows of the last tile that y does not have
    for first, step, taps in INPUT_ROWS:
        weight = np.tile(np.reshape(taps, (1, 1, -1, 1)), (channels, 1, 1, 1))
        last = first + step * (len(taps) - 1)
        attributes = {
            "group": channels,
            "strides": [TILE, 1],
            "dilations": [step, 1],
            "pads": [1 - first, 0, max(0, last - TILE + beyond), 0],
        }
        tiles.append(before.conv(x, weight, None, attributes))
    return tiles


def _sets_of_rows(
    before: Insertion,
    tiles: list[ir.Value],
    weight: NDArray[np.float64],
    bias: NDArray[np.floating[Any]] | None,
) -> list[ir.Value]:
    """Multiply the tiles, and combine the products into four sets of rows (N, O, H/4, W).

    onnxruntime fuses an Add into the convolution on its left, which then writes over the value on
    its right; where that is still needed it copies it first, on one thread, which takes longer than
    the convolution. So nothing else reads the value on the right of an Add here.
    """
    outputs = len(weight)
    transformed = np.einsum("ik,ockw->iocw", G, weight)[:, :, :, None]  # (6, O, C, 1, 3)
    offset = np.zeros(outputs) if bias is None else bias.astype(np.float64)

    def product(row: int) -> ir.Value:
        return before.conv(tiles[row], transformed[row], None, {"pads": [0, 1, 0, 1]})

    def times(factor: float, value: ir.Value, shift: NDArray[np.float64] | None = None) -> ir.Value:
        return before.scale_channels(value, np.full(outputs, factor), shift)

    def add(convolved: ir.Value, read_once: ir.Value) -> ir.Value:
        return before.op("Add", [convolved, read_once])

    def sum_and_difference(row: int) -> tuple[ir.Value, ir.Value]:
        second = product(row + 1)
        total = add(product(row), times(1, second))
        return total, add(times(1, total), times(-2, second))

    sum_12, difference_12 = sum_and_difference(1)
    sum_34, difference_34 = sum_and_difference(3)
    return [
        add(product(0), add(times(1, sum_34), times(1, sum_12, offset))),
        add(times(1, difference_12), times(2, difference_34, offset)),
        add(times(4, sum_34, offset), times(1, sum_12)),
        add(product(5), add(times(8, difference_34, offset), times(1, difference_12))),
    ]


def _laid_together(before: Insertion, sets: list[ir.Value], rows: int, columns: int) -> ir.Value:
    """(N, O, rows, columns) from the sets; rows beyond the last are cut off."""
    beside = before.op("Concat", sets, {"axis": 3})  # (N, O, H/4, 4·W)
    shape = before.constant(np.array([0, 0, -1, columns]), "shape")
    whole = before.op("Reshape", [beside, shape])
    if rows % TILE == 0:
        return whole
    bounds = (np.array([0]), np.array([rows]), np.array([2]))
    return before.op("Slice", [whole, *(before.constant(bound, "bound") for bound in bounds)])
