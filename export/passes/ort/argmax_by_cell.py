"""Upsample and argmax with the classes last, and in full only where classes meet.

Before → after, for logits (N, K, h, w)::

    x ─▶ Resize 1,1,s,s ─▶ ArgMax over axis 1 ─▶ Cast

    x ─▶ Transpose ─▶ Pad ─┬▶ ArgMax ─▶ a class for each cell of s x s pixels between four logits
                           └▶ of the cells whose corners disagree: GatherND ─▶ MatMul ─▶ ArgMax,
                              put into the former by ScatterND

A pixel's logits are a mean, with weights ≥ 0, of those at the corners of its cell. The class that
is the largest at all four corners is the largest at each pixel between them. Only the other cells
need the interpolation, which is one product with the s² weights of each corner. In a street these
are one cell in five. If all cells need it, all are interpolated, as without this pass.

The transpose is of the small logits; ArgMax over axis 1 would stride over planes. Measured on
onnxruntime's CPU provider and rejected: Resize with the classes last, strips of rows, two matrix
products, a separable Resize, a maximum by comparison.

With a confidence (``dabnet.head``), cells of which a corner's is below 255 are interpolated, too.
The others have 255 at each pixel: -log p = log Σ exp(l_k - l_c) is convex in the logits, so that p
is nowhere between the corners below the smallest p at a corner.

The mask is the same but for ties of one rounding, and so is the confidence.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dabnet.graph.editing import SLICE_END, Insertion
from dabnet.graph.facts import channels
from dabnet.head import LARGEST
from export.passes.upsampled_argmax import (
    UpsampledArgmax,
    confidence_of_sum,
    upsampled_argmaxes,
)

Scales = tuple[int, int]

SURE = LARGEST / (LARGEST - 0.5)
"""Largest Σ exp(l_k - max l) whose confidence is 255."""
UNSURE = -1
"""In place of the class of a corner whose confidence is less."""


def argmax_by_cell(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """Rewrite each head of a linear Resize by whole numbers."""
    changed = []
    for head in upsampled_argmaxes(model):
        if head.aligned:
            continue  # its cells are of different sizes
        rows, columns = head.scales
        changed.append(f"{head.mask.name}: upsampled by {rows}x{columns} where classes meet")
        head.replace(*_results(head.insertion("by_cell"), head))
    return model, changed


def _results(before: Insertion, head: UpsampledArgmax) -> tuple[ir.Value, ir.Value | None]:
    """(N, s·h, s·w) classes, chosen as the ArgMax does, and the confidences if there are any."""
    logits, scales, kind, count = head.logits, head.scales, head.kind, channels(head.logits)
    assert count is not None
    attributes = {k: v for k, v in head.argmax.attributes.items() if k != "axis"}

    def largest(values: ir.Value, axis: int) -> ir.Value:
        return before.op("ArgMax", [values], {**attributes, "axis": axis})

    turned = before.op("Transpose", [logits], {"perm": [0, 2, 3, 1]})
    # The border is repeated beyond itself: (N, h + 2, w + 2, K).
    pads = _numbers(before, 0, 1, 1, 0, 0, 1, 1, 0)
    corners = before.op("Pad", [turned, pads], {"mode": "edge"})
    classes = largest(corners, 3)
    if head.confidence:
        limit = before.constant(np.array(SURE), "sure")
        sure = before.op("LessOrEqual", [_sum_of_exp(before, corners, 3), limit])
        none = before.constant(np.array(UNSURE, np.int64), "unsure")
        classes = before.op("Where", [sure, classes, none])
    first, cells = _disagreeing(before, classes, head.confidence is not None)
    values = before.op("GatherND", [corners, _corners_of(before, cells)])  # (4, M, K)
    flat = before.op("Reshape", [values, _numbers(before, 4, -1)])
    pixels = before.op("MatMul", [before.constant(_weights(scales), "weights"), flat])
    pixels = before.op("Reshape", [pixels, _numbers(before, scales[0] * scales[1], -1, count)])
    found = before.op("Cast", [largest(pixels, 2)], {"to": int(kind)})  # (s·s, M)
    found = before.op("Transpose", [found], {"perm": [1, 0]})
    of_one = np.repeat(np.arange(count, dtype=kind.numpy())[:, None], scales[0] * scales[1], 1)
    whole = before.op("Gather", [before.constant(of_one, "classes"), first], {"axis": 0})
    joined = before.op("ScatterND", [whole, cells, found])  # (N, h + 1, w + 1, s·s)
    mask = _laid_out(before, joined, logits, scales)
    if not head.confidence:
        return mask, None
    kind = head.confidence_kind
    shares = confidence_of_sum(before, _sum_of_exp(before, pixels, 2), kind)  # (s·s, M)
    shares = before.op("Transpose", [shares], {"perm": [1, 0]})
    certain = ir.tensor(np.array([LARGEST], kind.numpy()))
    whole = before.op("ConstantOfShape", [before.op("Shape", [whole])], {"value": certain})
    joined = before.op("ScatterND", [whole, cells, shares])
    return mask, _laid_out(before, joined, logits, scales)


def _sum_of_exp(before: Insertion, logits: ir.Value, axis: int) -> ir.Value:
    """Σ exp(l - max l) over ``axis``, the last."""
    most = before.op("ReduceMax", [logits], {"axes": [axis]})  # an input from opset 18 on
    below = before.op("Exp", [before.op("Sub", [logits, most])])
    return before.op("ReduceSum", [below, _numbers(before, axis)], {"keepdims": 0})


def _disagreeing(before: Insertion, classes: ir.Value, unsure: bool) -> tuple[ir.Value, ir.Value]:
    """The class at the first corner of each cell, (N, h + 1, w + 1), and (image, row, column) of
    the M cells with another at another corner, (M, 3), or if ``unsure`` with ``UNSURE`` there."""

    def corner(down: int, right: int) -> ir.Value:
        starts = _numbers(before, down, right)
        ends = _numbers(before, *(end or SLICE_END for end in (down - 1, right - 1)))
        return before.op("Slice", [classes, starts, ends, _numbers(before, 1, 2)])

    first = corner(0, 0)
    equal = [before.op("Equal", [first, corner(*at)]) for at in ((0, 1), (1, 0), (1, 1))]
    all_equal = before.op("And", [before.op("And", equal[:2]), equal[2]])
    if unsure:
        none = before.constant(np.array(UNSURE, np.int64), "unsure")
        all_equal = before.op("And", [all_equal, before.op("Greater", [first, none])])
    cells = before.op("NonZero", [before.op("Not", [all_equal])])
    return first, before.op("Transpose", [cells], {"perm": [1, 0]})


def _corners_of(before: Insertion, cells: ir.Value) -> ir.Value:
    """(4, M, 3): the place of each corner of ``cells`` (M, 3)."""
    steps = np.array([[[0, 0, 0]], [[0, 0, 1]], [[0, 1, 0]], [[0, 1, 1]]])
    once = before.op("Unsqueeze", [cells, _numbers(before, 0)])
    return before.op("Add", [before.constant(steps, "steps"), once])


def _weights(scales: Scales) -> NDArray[np.float64]:
    """(s·s, 4): of each pixel of a cell, the weights of its corners."""
    down, right = (
        (np.arange(scale) + (0.5 if scale % 2 == 0 else 0.0)) / scale for scale in scales
    )
    rows, columns = np.stack([1 - down, down], 1), np.stack([1 - right, right], 1)
    weights: NDArray[np.float64] = np.einsum("ia,jb->ijab", rows, columns).reshape(-1, 4)
    return weights


def _laid_out(before: Insertion, cells: ir.Value, logits: ir.Value, scales: Scales) -> ir.Value:
    """(N, s·h, s·w) from (N, h + 1, w + 1, s·s); the first cells begin outside of the image."""
    rows, columns = scales
    split = before.op("Reshape", [cells, _numbers(before, 0, 0, 0, rows, columns)])
    turned = before.op("Transpose", [split], {"perm": [0, 1, 3, 2, 4]})
    width = logits.shape[3] if logits.shape is not None else None
    if isinstance(width, int):
        shape = _numbers(before, 0, -1, (width + 1) * columns)
    else:
        bounds = _numbers(before, 2), _numbers(before, 3)
        found = before.op("Slice", [before.op("Shape", [cells]), *bounds])
        wide = before.op("Mul", [found, _numbers(before, columns)])
        shape = before.op("Concat", [_numbers(before, 0, -1), wide], {"axis": 0})
    whole = before.op("Reshape", [turned, shape])
    starts = [(scale + 1) // 2 for scale in scales]
    ends = [start - scale or SLICE_END for start, scale in zip(starts, scales, strict=True)]
    axes = _numbers(before, 1, 2)
    return before.op("Slice", [whole, _numbers(before, *starts), _numbers(before, *ends), axes])


def _numbers(before: Insertion, *values: int) -> ir.Value:
    return before.constant(np.array(values, np.int64), "numbers")
