"""Pools as strided slices, which TensorRT-RTX fuses with what stands before and behind them.

A pool is a kernel of its own in TensorRT-RTX 1.7.1, and so is the Concat that reads it. Before →
after::

    x ─▶ MaxPool 2x2, stride 2 ─▶ y          x ─▶ 4 Slices of step 2 ─▶ Max, Max, Max ─▶ y
    x ─▶ AveragePool 3x3, stride 2 ─▶ y      x ─▶ Mul(1/9) ─▶ Pad ─▶ 9 Slices ─▶ 8 Add ─▶ y

The maximum is exact, the mean but for the order of a sum and its roundings. Sides must be known and
even.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import onnx_ir as ir

from dabnet.graph.editing import SLICE_END, Insertion, replace
from dabnet.graph.facts import Window, nodes_of, sides

MAX_WINDOW = Window(strides=(2, 2))
MEAN_WINDOW = Window(strides=(2, 2), pads=(1, 1, 1, 1))


def pools_as_slices(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """Rewrite each MaxPool 2x2 and each padded AveragePool 3x3 of stride 2."""
    changed = []
    for pool in nodes_of(model.graph, "MaxPool", "AveragePool"):
        x, y = pool.inputs[0], pool.outputs[0]
        if x is None or not _fits(pool, x):
            continue
        before = Insertion(pool, f"{y.name}/slices")
        replace(y, (_maximum if pool.op_type == "MaxPool" else _mean)(before, x))
        changed.append(f"{y.name}: {pool.op_type} as slices of step 2")
    return model, changed


def _fits(pool: ir.Node, x: ir.Value) -> bool:
    how, (rows, columns) = pool.attributes, sides(x)
    known_and_even = rows and columns and rows % 2 == columns % 2 == 0
    if not known_and_even or how.get_int("ceil_mode", 0) == 1:
        return False
    kernel, window = tuple(how.get_ints("kernel_shape", ())), Window.of(pool)
    if pool.op_type == "MaxPool":
        return (kernel, window) == ((2, 2), MAX_WINDOW) and len(pool.outputs) == 1
    counts_pads = how.get_int("count_include_pad", 0) == 1
    return (kernel, window) == ((3, 3), MEAN_WINDOW) and counts_pads


def _maximum(before: Insertion, x: ir.Value) -> ir.Value:
    return _of_slices(before, x, 2, "Max")


def _mean(before: Insertion, x: ir.Value) -> ir.Value:
    assert x.dtype is not None
    # The factor comes first: a sum of nine could overflow in FP16.
    ninth = before.op("Mul", [x, before.constant(np.array(1 / 9, x.dtype.numpy()), "ninth")])
    wide = before.op("Pad", [ninth, _numbers(before, 0, 0, 1, 1, 0, 0, 1, 1)])
    return _of_slices(before, wide, 3, "Add")


def _of_slices(before: Insertion, x: ir.Value, side: int, operator: str) -> ir.Value:
    """One value per window of ``side`` x ``side``, of step 2."""

    def tap(row: int, column: int) -> ir.Value:
        # The last window begins ``side`` values before the end.
        starts, ends = _numbers(before, row, column), _numbers(before, *_ends(side, row, column))
        return before.op("Slice", [x, starts, ends, _numbers(before, 2, 3), _numbers(before, 2, 2)])

    taps = itertools.starmap(tap, itertools.product(range(side), repeat=2))
    return functools.reduce(lambda one, two: before.op(operator, [one, two]), taps)


def _ends(side: int, *starts: int) -> tuple[int, ...]:
    return tuple(start - side + 1 or SLICE_END for start in starts)


def _numbers(before: Insertion, *values: int) -> ir.Value:
    return before.constant(np.array(values, np.int64), "numbers")
