"""PRelu as a maximum, or as two halves: operators that TensorRT and OpenVINO fuse better.

TensorRT-RTX 1.7.1 fuses no PRelu into a convolution. OpenVINO 2026.4.1 does, but slowly in
bfloat16, and to wrong numbers in FP16 behind a dilated depthwise convolution
(``docs/bench_backends.md``). Before → after, with slopes a::

    x ─▶ PRelu(a) ─▶ y        every a ≤ 1:   x ─┬──────────▶ Max ─▶ y
                                                └▶ Mul(a) ───▲

                              otherwise:     x ─┬▶ Relu ─────────────▶ Add ─▶ y
                                                └▶ Min(0) ─▶ Mul(a) ───▲

Exact for finite x: where a ≤ 1, a·x > x only if x < 0; and one of the two summands is 0.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dabnet.graph.editing import Insertion, replace
from dabnet.graph.facts import array, nodes_of


def prelu_as_max(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """Rewrite each PRelu with constant slopes."""
    changed = []
    for node in nodes_of(model.graph, "PRelu"):
        x, slopes = node.inputs[0], array(node.inputs[1])
        if x is None or slopes is None:
            continue
        y = node.outputs[0]
        before = Insertion(node, f"{y.name}/max")
        factor = before.constant(slopes, "slopes")
        if (slopes <= 1).all():
            result = before.op("Max", [x, before.op("Mul", [x, factor])])
        else:
            negative = before.op("Min", [x, before.constant(np.zeros((), slopes.dtype), "zero")])
            result = before.op(
                "Add", [before.op("Relu", [x]), before.op("Mul", [negative, factor])]
            )
        replace(y, result)
        changed.append(f"{y.name}: PRelu of {slopes.size} slopes")
    return model, changed
