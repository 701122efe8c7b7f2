"""Where an int8 graph rounds: policies by name, each a list of edges.

An edge is one input of one node. A tensor that several nodes read can be rounded for one of them
and not for another, so a policy says which inputs it rounds and leaves every other reader alone.

======================  ===========================================================================
``conv-inputs``         what each convolution reads
``dense-only``          what each dense convolution reads, but for the first and the classifier; a
                        depthwise convolution is bound by memory, and int8 pads its channels
``tensorrt``            ``conv-inputs``, and what is added to a convolution's output, so that
                        TensorRT can add it inside the convolution
``all``                 what convolutions, sums, pools, resizes, PReLUs, BatchNormalizations and
                        Concats read: nearly each float tensor
======================  ===========================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import onnx

from calibration.stepwise import element_types
from dabnet.errors import InputError

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
        reader: the node's first output, which names it even where the node has no name.
        index: which of its inputs.
        tensor: what it reads there.
    """

    reader: str
    index: int
    tensor: str


def edges_of(model: onnx.ModelProto, placement: str = DEFAULT_PLACEMENT) -> list[Edge]:
    """Return the edges that ``placement`` rounds, in graph order.

    Args:
        model: an FP32 graph, topologically sorted.
        placement: one of ``PLACEMENTS``.
    """
    check_placement(placement)
    graph = model.graph
    constants = {item.name for item in graph.initializer}
    constants.update(node.output[0] for node in graph.node if node.op_type == "Constant")
    floats = _float_tensors(model)
    wanted = _PLACEMENTS[placement](list(graph.node))
    return [edge for edge in wanted if edge.tensor not in constants and edge.tensor in floats]


def conv_edges(model: onnx.ModelProto) -> list[Edge]:
    """Return the data input of each convolution, of whatever type."""
    return _conv_inputs(list(model.graph.node))


def check_placement(placement: str) -> None:
    """Raise ``InputError`` unless this is one of ``PLACEMENTS``."""
    if placement not in _PLACEMENTS:
        raise InputError(f"placement {placement!r}", "one of " + ", ".join(PLACEMENTS))


def is_conv(node: onnx.NodeProto) -> bool:
    """Whether this is a Conv of the standard operators (not a ConvTranspose)."""
    return node.op_type == "Conv" and node.domain in ("", "ai.onnx")


def layer_name(node: onnx.NodeProto) -> str:
    """How a convolution is called in tables and options: its module in the network.

    ``/network/init_conv/init_conv.0/conv/Conv`` → ``init_conv.0``.
    """
    name = node.name or node.output[0]
    parts = [part for part in name.strip("/").split("/") if part not in ("network", "Conv", "conv")]
    # A child of a Sequential repeats its parent's name: init_conv/init_conv.0.
    kept = [
        part
        for part, following in zip(parts, [*parts[1:], ""], strict=True)
        if not following.startswith(part + ".")
    ]
    return ".".join(kept) or name


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of float32 tensors, by type inference."""
    types = element_types(model)
    return {name for name, kind in types.items() if kind == onnx.TensorProto.FLOAT}


def _conv_inputs(nodes: list[onnx.NodeProto]) -> list[Edge]:
    return [_edge(node, 0) for node in nodes if is_conv(node)]


def _dense_only(nodes: list[onnx.NodeProto]) -> list[Edge]:
    convolutions = [node for node in nodes if is_conv(node)]
    behind = _reachable(nodes, [n.output[0] for n in convolutions])
    ahead = {
        node.output[0]
        for node in convolutions
        if _reachable(nodes, [node.output[0]]) & {name for n in convolutions for name in n.input}
    }
    return [
        _edge(node, 0)
        for node in convolutions
        if _groups(node) == 1 and node.input[0] in behind and node.output[0] in ahead
    ]


def _tensorrt(nodes: list[onnx.NodeProto]) -> list[Edge]:
    summed = {node.output[0] for node in nodes if is_conv(node)}
    found = []
    for node in nodes:
        if is_conv(node):
            found.append(_edge(node, 0))
        elif node.op_type == "Add":
            others = [i for i, name in enumerate(node.input) if name not in summed]
            if len(others) == 1:
                found.append(_edge(node, others[0]))
    return found


def _all(nodes: list[onnx.NodeProto]) -> list[Edge]:
    return [
        _edge(node, index)
        for node in nodes
        if node.op_type in _ROUNDED_INPUTS and node.domain in ("", "ai.onnx")
        for index in range(len(node.input))[: _ROUNDED_INPUTS[node.op_type]]
    ]


_PLACEMENTS: dict[str, Callable[[list[onnx.NodeProto]], list[Edge]]] = {
    "conv-inputs": _conv_inputs,
    "dense-only": _dense_only,
    "tensorrt": _tensorrt,
    "all": _all,
}
PLACEMENTS = tuple(_PLACEMENTS)


def _edge(node: onnx.NodeProto, index: int) -> Edge:
    return Edge(node.output[0], index, node.input[index])


def _groups(node: onnx.NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "group"), 1)


def _reachable(nodes: list[onnx.NodeProto], start: Collection[str]) -> set[str]:
    """``start`` and every tensor computed from it."""
    found = set(start)
    for node in nodes:
        if found.intersection(node.input):
            found.update(node.output)
    return found
