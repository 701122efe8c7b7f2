"""Copy a residual before it is added, where it is needed afterwards.

Before → after, for x that is read again later::

    x ─┬▶ … ─▶ Conv ─▶ Add ─▶        x ─┬▶ … ─▶ Conv ─────────▶ Add ─▶
       ├────────────────┘               ├▶ Conv 1x1 depthwise ───┘
       └▶                               └▶

onnxruntime's CPU provider fuses the Add into the convolution, which writes its result over x. Where
x must outlive that, it copies x first, on one thread; the depthwise convolution copies on all.
Exact.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.passes.editing import Insertion, channels, nodes_of, only_reader


def copy_residual(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """Copy each tensor that is added to a convolution and may be read after that."""
    changed = []
    for add in nodes_of(model.graph, "Add"):
        for index, value in enumerate(add.inputs):
            other = add.inputs[1 - index]
            conv = None if other is None else other.producer()
            count = channels(value)
            if value is None or count is None or conv is None or conv.op_type != "Conv":
                continue
            if only_reader(conv.outputs[0]) is add and _may_outlive(add, value):
                before = Insertion(add, f"{add.outputs[0].name}/copy_{index}")
                add.replace_input_with(index, before.scale_channels(value, np.ones(count)))
                changed.append(f"{add.outputs[0].name}: copied {value.name}")
                break
    return model, changed


def _may_outlive(add: ir.Node, value: ir.Value) -> bool:
    """Whether a reader of ``value`` may run after ``add``: ``add`` does not depend on it."""
    readers = {node for node, _ in value.uses()} - {add}
    pending, seen = [add], set()
    while pending and readers:
        for given in pending.pop().inputs:
            node = None if given is None else given.producer()
            if node is not None and node not in seen:
                seen.add(node)
                readers.discard(node)
                pending.append(node)
    return bool(readers)
