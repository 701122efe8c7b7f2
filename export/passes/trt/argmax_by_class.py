"""Upsample and argmax a class at a time with a running maximum: one kernel of TensorRT-RTX.

TensorRT computes Resize, ArgMax and Cast in a kernel each, and writes the full-size logits of all
classes. Before → after, for logits (N, K, h, w)::

    x ─▶ Resize 1,1,s,s ─▶ ArgMax over axis 1 ─▶ Cast ─▶ y

    of each class k: x ─▶ Slice ─▶ Gather the two rows, of each the two columns around a pixel
                       ─▶ interpolate ─▶ value
    value > best ─▶ Where(k, class)      ─┐
    Max(value, best)                     ─┴▶ the next class … ─▶ Cast ─▶ y

A confidence behind it (``dabnet.head``) is 1 over a running sum of exp(value - best)::

    value ≤ best: sum + exp(value - best)      value > best: sum · exp(best - value) + 1

All of it is pointwise but for Gathers of constant indices: it reads the coarse logits and writes
the mask. Interpolation is in FP32, also in an FP16 graph. The first of equal classes wins, as in
ArgMax. The mask is the same but for ties of one rounding; of an FP16 graph it is that of FP32
interpolation of the FP16 logits, and so is the confidence. The height and width must be known.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dabnet.graph.editing import Insertion
from dabnet.graph.facts import channels, sides
from export.passes.upsampled_argmax import (
    UpsampledArgmax,
    confidence_of_sum,
    upsampled_argmaxes,
)

FLOAT = int(ir.DataType.FLOAT)


def argmax_by_class(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """Rewrite each head of a linear Resize by whole numbers."""
    changed = []
    for head in upsampled_argmaxes(model):
        classes = channels(head.logits) or 0
        last_of_equals = head.argmax.attributes.get_int("select_last_index", 0)
        if 0 not in sides(head.logits) and classes > 1 and not last_of_equals:
            changed.append(f"{head.mask.name}: running maximum of {classes} classes")
            head.replace(*_results(head.insertion("by_class"), head))
    return model, changed


def _results(before: Insertion, head: UpsampledArgmax) -> tuple[ir.Value, ir.Value | None]:
    """The mask, and the confidence if there is one."""
    logits = head.logits
    rows, columns = (
        _Taps(before, size, scale, axis, head.aligned)
        for size, scale, axis in zip(sides(logits), head.scales, (2, 3), strict=True)
    )

    def number(value: int, kind: type = np.int64) -> ir.Value:
        return before.constant(np.full((1, 1, 1, 1) if kind is np.int32 else 1, value, kind), "k")

    best, found = None, number(0, np.int32)
    unit = total = before.constant(np.ones((1, 1, 1, 1)), "unit") if head.confidence else None
    for k in range(channels(logits) or 0):
        one = before.op("Slice", [logits, number(k), number(k + 1), number(1)])
        if logits.dtype != ir.DataType.FLOAT:
            one = before.op("Cast", [one], {"to": FLOAT})
        value = rows.between(*map(columns.interpolated, rows.around(one)))
        if best is None:
            best = value
            continue
        larger = before.op("Greater", [value, best])
        if total is not None:
            apart = before.op("Abs", [before.op("Sub", [value, best])])
            share = before.op("Exp", [before.op("Neg", [apart])])
            grown = before.op("Add", [before.op("Mul", [total, share]), unit])
            total = before.op("Where", [larger, grown, before.op("Add", [total, share])])
        found = before.op("Where", [larger, number(k, np.int32), found])
        best = before.op("Max", [best, value])
    mask = before.op("Squeeze", [found, number(1)])
    mask = before.op("Cast", [mask], {"to": int(head.kind)})
    if total is None:
        return mask, None
    total = before.op("Squeeze", [total, number(1)])
    return mask, confidence_of_sum(before, total, head.confidence_kind)


class _Taps:
    """Linear interpolation along one axis; ``aligned``: see ``UpsampledArgmax``."""

    def __init__(self, before: Insertion, size: int, scale: int, axis: int, aligned: bool) -> None:
        pixels = np.arange(size * scale)
        step = (size - 1) / max(1, size * scale - 1) if aligned else 1 / scale
        at = step * pixels if aligned else step * (pixels + 0.5) - 0.5
        first = np.floor(at)
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        self._before, self._axis = before, axis
        self._ends = [
            before.constant(np.clip(first + k, 0, size - 1).astype(np.int64), "at") for k in (0, 1)
        ]
        self._share = before.constant((at - first).reshape(shape), "share")

    def around(self, value: ir.Value) -> list[ir.Value]:
        """The values before and behind each pixel."""
        return [self._before.op("Gather", [value, at], {"axis": self._axis}) for at in self._ends]

    def between(self, first: ir.Value, last: ir.Value) -> ir.Value:
        """Each pixel, from the values around it."""
        step = self._before.op("Mul", [self._before.op("Sub", [last, first]), self._share])
        return self._before.op("Add", [first, step])

    def interpolated(self, value: ir.Value) -> ir.Value:
        return self.between(*self.around(value))
