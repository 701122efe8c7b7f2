"""The arithmetic of an int8 graph on onnxruntime: as its Q/DQ nodes say, or in integer kernels.

Where both sides of an operator are rounded, onnxruntime replaces DequantizeLinear → operator →
QuantizeLinear by one integer kernel, such as QLinearConv. Such a kernel rounds its bias and its
result differently, and on x86 processors without VNNI the product of two pairs of bytes saturates
at 16 bits (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html, "U8S8").
So the same file has other masks on other machines. What was done is read from the trace of a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from dabnet.runtime.ort.placement import CPU, PlacedNode

# Session option (onnxruntime_session_options_config_keys.h): "1" leaves Q/DQ nodes as they are.
EXACT_QDQ = "session.disable_quant_qdq"

# These move or choose bytes: on int8 they give exactly what they would give on the floats.
_EXACT_ON_BYTES = (
    *("QuantizeLinear", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"),
    *("Identity", "Slice", "Split", "Concat", "Expand", "Pad", "MaxPool"),
    *("Gather", "GatherND", "ScatterND"),
)

# y = MatMulInteger(a uint8, b int8) at opset 13, as onnx.helper writes it: an application that
# runs an artifact has no onnx package.
_PRODUCT = (
    b'\x08\x08:>\n\x18\n\x01a\n\x01b\x12\x01y"\rMatMulInteger\x12\x01gZ\t\n\x01a\x12\x04\n\x02\x08\x02'
    b"Z\t\n\x01b\x12\x04\n\x02\x08\x03b\t\n\x01y\x12\x04\n\x02\x08\x06B\x04\n\x00\x10\r"
)
_TERMS = 64


def fused_nodes(nodes: Iterable[PlacedNode]) -> list[PlacedNode]:
    """Return the nodes that compute on integers, and do not only move or choose bytes."""
    return [
        node
        for node in nodes
        if "Integer" in node.op
        or (node.op not in _EXACT_ON_BYTES and {"int8", "uint8"} & set(node.made))
    ]


def arithmetic_of(nodes: list[PlacedNode], ort: Any) -> str:
    """Say how ``nodes``, which ran on the module ``ort``, computed an int8 graph.

    ``exact Q/DQ in float32``, or ``fused int8 kernels (QLinearConv 18), which saturate on this
    CPU``.
    """
    if fused := fused_nodes(nodes):
        kinds = Counter(node.op for node in fused)
        counts = ", ".join(f"{op} {count}" for op, count in sorted(kinds.items()))
        said = f"fused int8 kernels ({counts})"
        if all(node.provider != CPU for node in fused):
            return said
        return f"{said}, which {'' if products_saturate(ort) else 'do not '}saturate on this CPU"
    floats = {
        {"float": "float32"}.get(kind, kind)
        for node in nodes
        if node.op not in _EXACT_ON_BYTES
        for kind in node.made
        if "float" in kind
    }
    return f"exact Q/DQ in {' and '.join(sorted(floats)) or 'float32'}"


def products_saturate(ort: Any) -> bool:
    """Whether onnxruntime's sums of uint8·int8 products saturate on this CPU: tried, not looked up.

    Two products of 255·127 exceed 16 bits; without VNNI their sum stops at 32767.
    """
    session = ort.InferenceSession(_PRODUCT, providers=[CPU])
    given = {"a": np.full((1, _TERMS), 255, np.uint8), "b": np.full((_TERMS, 1), 127, np.int8)}
    return int(session.run(None, given)[0].item()) != _TERMS * 255 * 127
