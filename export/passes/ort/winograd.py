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

The sets of rows y_0 … y_3 are laid between each other only if they must (``row_sets``).

Weights are transformed in float64. Stated error: that of float32 with other sums, below 3e-6 of the
output's root mean square (``tests/export/passes/test_winograd.py``).

It pays if the convolution, not memory, is the limit: from 64 input channels, or 32 if the sets of
rows need not be laid together at once. Measured and rejected: F(8, 3), which has fewer products,
but more to transform in return.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dabnet.graph.editing import Insertion, conv_constants, replace, tidy
from dabnet.graph.facts import FloatArray, Window, is_conv, sides
from export.passes.ort.row_sets import (
    Sets,
    elementwise,
    halved,
    halves_size,
    is_elementwise,
    laid_together,
)

TILE = 4  # rows of output of one tile
MIN_INPUTS = 64
MIN_INPUTS_IN_CHAIN = 32
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
    sets: dict[ir.Value, Sets] = {}
    for node in list(model.graph):
        x = node.inputs[0] if node.inputs else None
        if x is None:
            continue
        y = node.outputs[0]
        before, inputs = Insertion(node, f"{y.name}/winograd"), _channels_of_fitting(node)
        if inputs and (inputs >= MIN_INPUTS or x in sets or _goes_on(y)):
            sets[y] = _convolved(before, node, x, sets.get(x))
            changed.append(f"{y.name}: {inputs} input channels")
        elif x in sets and is_elementwise(node) and _goes_on(y):
            sets[y] = elementwise(before, node, sets[x])
        elif x in sets and _is_even(x) and halves_size(node):
            sets[y] = halved(before, node, sets[x])
        else:
            for value in dict.fromkeys(v for v in node.inputs if v is not None and v in sets):
                replace(value, laid_together(before, sets[value], *sides(value)))
    for value in [value for value in sets if value.is_graph_output()]:
        producer = value.producer()
        assert producer is not None
        before = Insertion(producer, f"{value.name}/whole")
        replace(value, laid_together(before, sets[value], *sides(value)))
    return tidy(model), changed


def _goes_on(value: ir.Value) -> bool:
    """Whether all that reads ``value``, past elementwise operators, can read sets of rows."""
    readers = value.consumers()
    return (
        bool(readers)
        and not value.is_graph_output()
        and all(
            (_channels_of_fitting(node) and sides(value)[0] % TILE == 0)
            or (halves_size(node) and _is_even(value))
            or (is_elementwise(node) and _goes_on(node.outputs[0]))
            for node in readers
        )
    )


def _is_even(value: ir.Value) -> bool:
    """Whether four sets of rows become two whole ones if the size is halved."""
    rows, columns = sides(value)
    return rows % TILE == 0 and columns % 2 == 0


def _channels_of_fitting(node: ir.Node) -> int:
    """Input channels of a convolution that can be rewritten; 0 for any other node."""
    constants = conv_constants(node) if is_conv(node) else None
    if constants is None or constants[0].shape[2:] != (3, 3) or 0 in sides(node.outputs[0]):
        return 0
    outputs, inputs = constants[0].shape[:2]
    fits = outputs >= MIN_OUTPUTS and inputs >= MIN_INPUTS_IN_CHAIN
    return inputs if fits and Window.of(node) == Window(pads=(1, 1, 1, 1)) else 0


def _convolved(before: Insertion, conv: ir.Node, x: ir.Value, sets: Sets | None) -> Sets:
    constants = conv_constants(conv)
    assert constants is not None
    weight, bias = constants
    if sets is None:
        tiles = _tiles(before, x, weight.shape[1], sides(conv.outputs[0])[0])
    else:
        tiles = _tiles_of_sets(before, sets, weight.shape[1])
    return _sets_of_rows(before, tiles, weight.astype(np.float64), bias)


def _tiles(before: Insertion, x: ir.Value, channels: int, rows: int) -> list[ir.Value]:
    """t_i: (N, C, H/4, W) each. Tap k of tile r is row 4r - 1 + k of x; outside are zeros."""
    tiles = []
    beyond = -rows % TILE  # rows of the last tile that y lacks
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


def _tiles_of_sets(before: Insertion, sets: Sets, channels: int) -> list[ir.Value]:
    """t_i from four sets of rows: the taps of tile r are row r - 1 of the last set, row r of each,
    and row r + 1 of the first. See ``_sets_of_rows`` on the order of the sums."""

    def times(factor: float, value: ir.Value) -> ir.Value:
        return before.scale_channels(value, np.full(channels, factor))

    def two_taps(value: ir.Value, above: int) -> ir.Value:
        kernel = np.tile(np.reshape([4.0, 1.0], (1, 1, 2, 1)), (channels, 1, 1, 1))
        pads = [above, 0, 1 - above, 0]
        return before.conv(value, kernel, None, {"group": channels, "pads": pads})

    def add(convolved: ir.Value, read_once: ir.Value) -> ir.Value:
        return before.op("Add", [convolved, read_once])

    def sum_and_difference(even: ir.Value, minus_2_odd: ir.Value) -> tuple[ir.Value, ir.Value]:
        total = add(times(-0.5, minus_2_odd), even)
        return total, add(times(1, total), minus_2_odd)

    first, second, third, fourth = sets
    tile_1, tile_2 = sum_and_difference(
        add(times(1, fourth), times(-4, second)), add(times(-2, third), times(8, first))
    )
    tile_3, tile_4 = sum_and_difference(
        add(times(1, fourth), times(-1, second)), add(times(-4, third), times(4, first))
    )
    return [
        add(two_taps(fourth, 1), times(-5, second)),
        tile_1,
        tile_2,
        tile_3,
        tile_4,
        add(two_taps(first, 0), times(-5, third)),
    ]


def _sets_of_rows(
    before: Insertion,
    tiles: list[ir.Value],
    weight: NDArray[np.float64],
    bias: FloatArray | None,
) -> list[ir.Value]:
    """Multiply the tiles, and combine the products into four sets of rows (N, O, H/4, W).

    onnxruntime fuses an Add into the convolution on its left, which then writes over the value on
    its right; if that is still needed it copies it first, on one thread, which takes longer than
    the convolution. Here the left of each Add depends on every other reader of the value on its
    right, so that none comes later.
    """
    outputs = len(weight)
    transformed = np.einsum("ik,ockw->iocw", G, weight)[:, :, :, None]  # (6, O, C, 1, 3)
    offset = np.zeros(outputs) if bias is None else bias.astype(np.float64)

    def product(row: int, factor: float = 1.0) -> ir.Value:
        return before.conv(tiles[row], factor * transformed[row], None, {"pads": [0, 1, 0, 1]})

    def times(factor: float, value: ir.Value, shift: NDArray[np.float64] | None = None) -> ir.Value:
        return before.scale_channels(value, np.full(outputs, factor), shift)

    def add(convolved: ir.Value, read_once: ir.Value) -> ir.Value:
        return before.op("Add", [convolved, read_once])

    minus_2_second = product(2, -2)
    sum_12 = add(product(1), times(-1 / 2, minus_2_second))
    difference_12 = add(times(1, sum_12), minus_2_second)
    minus_12_fourth = product(4, -12)
    sum_34 = add(product(3), times(-1 / 12, minus_12_fourth))
    six_difference_34 = add(times(6, sum_34), minus_12_fourth)
    y_1 = add(times(1 / 3, six_difference_34, offset), difference_12)
    y_2 = add(times(1, sum_12), times(4, sum_34, offset))
    return [
        add(times(1, y_2), add(times(-3, sum_34), product(0))),
        y_1,
        y_2,
        add(product(5), add(times(1, y_1), six_difference_34)),
    ]
