"""Fitted weights of one int8 graph for another that rounds fewer convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx

from calibration.placements import is_conv


def with_weights_of(quantized: onnx.ModelProto, fitted: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of ``quantized`` with the weights and biases that ``fitted`` has.

    ``calibration.fit_weights`` fits each convolution by itself, so that its result serves each
    choice of those that stay in float.

    Args:
        quantized: Q/DQ at some convolutions of a graph, by ``insert_qdq``. It is not modified.
        fitted: Q/DQ at these and perhaps others, with fitted weights.
    """
    result = onnx.ModelProto()
    result.CopyFrom(quantized)
    better = {node.output[0]: (node, weight) for node, weight in _int8_convolutions(fitted)}
    source = {item.name: item for item in fitted.graph.initializer}
    target = {item.name: item for item in result.graph.initializer}
    for node, weight in list(_int8_convolutions(result)):
        if node.output[0] not in better:
            continue
        theirs, levels = better[node.output[0]]
        target[weight].CopyFrom(source[levels])
        target[weight].name = weight
        if len(theirs.input) > 2:
            name = theirs.input[2]
            if name not in target:
                target[name] = result.graph.initializer.add()
                target[name].CopyFrom(source[name])
            del node.input[2:]
            node.input.append(name)
    read = {name for node in result.graph.node for name in node.input}
    for index in reversed(range(len(result.graph.initializer))):
        if result.graph.initializer[index].name not in read:
            del result.graph.initializer[index]  # a bias of before
    return result


def _int8_convolutions(model: onnx.ModelProto) -> Iterator[tuple[Any, str]]:
    """Each Conv whose weights are dequantised, with the name of their int8 initializer."""
    dequantized = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
    }
    for node in model.graph.node:
        if is_conv(node) and node.input[1] in dequantized:
            yield node, dequantized[node.input[1]]
