"""Upsample and argmax with the classes last, where a CPU reads them side by side.

Before → after, for logits (N, K, h, w)::

    x ─▶ Resize 1,1,s,s ─▶ ArgMax over axis 1
    x ─▶ Transpose ─▶ Resize 1,s,s,1 ─▶ ArgMax over axis 3

The transpose is of the small logits. In the first row ArgMax strides over planes of s²·h·w values.
Measured beside it on onnxruntime's CPU provider and not taken: strips of rows (no gain from
caches), two matrix products, a separable Resize, a maximum by comparison.

The same interpolation, so the same mask but for ties of one rounding.
"""

from __future__ import annotations

import onnx_ir as ir

from export.passes.editing import Insertion, array, integer, nodes_of, only_reader, replace

TO_CHANNELS_LAST = [0, 2, 3, 1]


def argmax_channels_last(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """Rewrite each linear Resize by constant scales whose only reader is an ArgMax over classes."""
    changed = []
    for argmax in nodes_of(model.graph, "ArgMax"):
        resize = argmax.inputs[0].producer() if argmax.inputs[0] is not None else None
        if resize is None or not _fits(argmax, resize):
            continue
        scales = array(resize.inputs[2])
        assert scales is not None
        name = argmax.outputs[0].name
        before = Insertion(argmax, f"{name}/channels_last")
        turned = before.op("Transpose", [resize.inputs[0]], {"perm": TO_CHANNELS_LAST})
        scale = before.constant(scales[TO_CHANNELS_LAST], "scales")
        large = before.op("Resize", [turned, None, scale], dict(resize.attributes))
        attributes = {**argmax.attributes, "axis": ir.AttrInt64("axis", 3)}
        replace(argmax.outputs[0], before.op("ArgMax", [large], attributes))
        assert resize.graph is not None
        resize.graph.remove(resize, safe=True)
        changed.append(f"{name}: upsampled with the classes last")
    return model, changed


def _fits(argmax: ir.Node, resize: ir.Node) -> bool:
    mode = resize.attributes.get("mode")
    scales = array(resize.inputs[2]) if len(resize.inputs) == 3 else None
    return (
        resize.op_type == "Resize"
        and mode is not None
        and mode.as_string() == "linear"
        and scales is not None
        and scales.shape == (4,)
        and scales[1] == 1
        and only_reader(resize.outputs[0]) is argmax
        and integer(argmax, "axis", 0) == 1
        and integer(argmax, "keepdims", 1) == 0
    )
