"""Transpose the image while it is bytes, then cast it.

Before → after, for a uint8 image (N, H, W, 3)::

    image ─▶ Cast to float ─▶ Transpose ─▶        image ─▶ Transpose ─▶ Cast to float ─▶

A quarter of the bytes are moved. Exact. Not for TensorRT, which lets a uint8 tensor be cast and
nothing else.
"""

from __future__ import annotations

import onnx_ir as ir

from export.passes.editing import Insertion, nodes_of, only_reader, replace


def bytes_first(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """Swap each Cast of a uint8 tensor with the Transpose that alone reads it."""
    changed = []
    for cast in nodes_of(model.graph, "Cast"):
        image, turn = cast.inputs[0], only_reader(cast.outputs[0])
        if image is None or image.dtype != ir.DataType.UINT8:
            continue
        if turn is None or turn.op_type != "Transpose":
            continue
        name = turn.outputs[0].name
        before = Insertion(turn, f"{name}/bytes")
        turned = before.op("Transpose", [image], dict(turn.attributes))
        replace(turn.outputs[0], before.op("Cast", [turned], dict(cast.attributes)))
        assert cast.graph is not None
        cast.graph.remove(cast, safe=True)
        changed.append(f"{name}: transposed as uint8")
    return model, changed
