"""A mask's bytes by way of float32, from which every TensorRT converts to uint8.

``DataType::kUINT8`` in NvInfer.h (8.6 and 10): conversions to uint8 are supported from FP32 and
FP16 only; the parser of 8.6 refuses others. Before → after::

    int64 or int32 ─▶ Cast(uint8)        int64 or int32 ─▶ Cast(float32) ─▶ Cast(uint8)

Exact for classes, which are far below 2²⁴.
"""

from __future__ import annotations

import onnx_ir as ir

from dabnet.graph.editing import Insertion
from dabnet.graph.facts import nodes_of

INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)


def bytes_from_float(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """Rewrite each Cast of an integer tensor to uint8."""
    changed = []
    for node in nodes_of(model.graph, "Cast"):
        source, y = node.inputs[0], node.outputs[0]
        to = node.attributes.get_int("to", 0)
        if source is not None and source.dtype in INTEGERS and to == ir.DataType.UINT8:
            before = Insertion(node, f"{y.name}/by_float")
            node.replace_input_with(0, before.op("Cast", [source], {"to": int(ir.DataType.FLOAT)}))
            changed.append(f"{y.name}: from {source.dtype.name.lower()}")
    return model, changed
