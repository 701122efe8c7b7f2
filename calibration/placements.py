"""Placements: policies by name that choose the edges of a graph that int8 rounds.

An edge is one input of one node. A tensor that several nodes read can be rounded for one of them
and not for another, so a policy says which inputs it rounds and leaves every other reader alone.

======================  ===========================================================================
``conv-inputs``         the input of each convolution
``dense-only``          the input of each dense convolution but the first and the classifier; a
                        depthwise convolution is bound by memory, and int8 pads its channels
``tensorrt``            ``conv-inputs``, and what is added to a convolution's output, so that
                        TensorRT can add it inside the convolution
``all``                 the inputs of convolutions, sums, pools, resizes, PReLUs,
                        BatchNormalizations and Concats: nearly each float tensor
======================  ===========================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from dabnet.errors import InputError
from dabnet.graph.facts import inferred, is_conv, is_op

DEFAULT_PLACEMENT = "conv-inputs"

# Operators that ``all`` rounds the inputs of, and how many of their inputs carry activations.
_ROUNDED_INPUTS = {
    "Conv": 1,
    "Add": 2,
    "AveragePool": 1,
    "MaxPool": 1,
    "Resize": 1,
    "PRelu": 1,
    "BatchNormalization": 1,
    "Concat": None,
}


@dataclass(frozen=True, slots=True)
class Edge:
    """One input of one node.

    Attributes:
        reader: the node's first output, which names it even if the node has no name.
        index: which of its inputs.
        tensor: the tensor that it reads there.
    """

    reader: str
    index: int
    tensor: str


def edges_of(model: ir.Model, placement: str = DEFAULT_PLACEMENT) -> list[Edge]:
    """Return the edges that ``placement`` rounds, in graph order.

    Args:
        model: an FP32 graph, topologically sorted. It is not modified.
        placement: one of ``PLACEMENTS``.
    """
    if placement not in _PLACEMENTS:
        raise InputError(f"placement {placement!r}", "one of " + ", ".join(PLACEMENTS))
    found = []
    for node, index in _PLACEMENTS[placement](list(inferred(model).graph)):
        value = node.inputs[index]
        if value is None or value.dtype != ir.DataType.FLOAT or value.is_initializer():
            continue
        if not is_op(value.producer(), "Constant"):
            found.append(Edge(str(node.outputs[0].name), index, str(value.name)))
    return found


_Inputs = list[tuple[ir.Node, int]]


def _conv_inputs(nodes: Sequence[ir.Node]) -> _Inputs:
    return [(node, 0) for node in nodes if is_conv(node)]


def _dense_only(nodes: Sequence[ir.Node]) -> _Inputs:
    behind, ahead = set[ir.Value | None](), set[ir.Value | None]()
    for node in nodes:
        if is_conv(node) or behind.intersection(node.inputs):
            behind.update(node.outputs)  # a convolution, or computed from one
    for node in reversed(nodes):
        if is_op(node, "Conv", "ConvTranspose") or ahead.intersection(node.outputs):
            ahead.update(node.inputs)  # read by a convolution, or needed for that
    return [
        (node, 0)
        for node in nodes
        if is_conv(node)
        and node.attributes.get_int("group", 1) == 1
        and node.inputs[0] in behind
        and node.outputs[0] in ahead
    ]


def _tensorrt(nodes: Sequence[ir.Node]) -> _Inputs:
    found: _Inputs = []
    for node in nodes:
        if is_conv(node):
            found.append((node, 0))
        elif is_op(node, "Add"):
            made = [value is not None and value.producer() for value in node.inputs]
            others = [index for index, by in enumerate(made) if not by or not is_conv(by)]
            found += [(node, index) for index in others if len(others) == 1]
    return found


def _all(nodes: Sequence[ir.Node]) -> _Inputs:
    return [
        (node, index)
        for node in nodes
        if is_op(node, *_ROUNDED_INPUTS)
        for index in range(len(node.inputs))[: _ROUNDED_INPUTS[node.op_type]]
    ]


_PLACEMENTS: dict[str, Callable[[Sequence[ir.Node]], _Inputs]] = {
    "conv-inputs": _conv_inputs,
    "dense-only": _dense_only,
    "tensorrt": _tensorrt,
    "all": _all,
}
PLACEMENTS = tuple(_PLACEMENTS)
