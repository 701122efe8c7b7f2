"""Where a factor per channel can be moved from one node of a graph into others, exactly.

A Conv or BatchNormalization with constant weights can multiply channel c of its output by any
f[c] > 0. What follows it lets such a factor pass (PReLU, ReLU, pools: p(f·x) = f·p(x) for f > 0,
whatever PReLU's slope), or divides it out (the input channels of a Conv; γ/f and μ·f of a
BatchNormalization). Where every reader does one or the other, the network computes the same.

Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV
2019 (arXiv 1906.04721), section 4.1; for operators, https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calibration.placements import is_conv

# One input, and homogeneous: p(f·x) = f·p(x) for each f > 0.
_PASSING = ("PRelu", "Relu", "LeakyRelu", "MaxPool", "AveragePool")
# Which inputs of BatchNormalization multiply or shift its output.
_GAMMA, _BETA, _MEAN = 1, 2, 3


@dataclass(frozen=True, slots=True)
class ChannelSite:
    """A node whose output channels can be scaled, and what takes the factors back.

    Attributes:
        producer: index of the Conv or BatchNormalization in the graph.
        channels: how many its output has.
        conv_inputs: the tensors behind it that a Conv reads, in graph order.
        absorbers: indices of the nodes that take the factors back, each with the first of its
            input channels that it is about.
    """

    producer: int
    channels: int
    conv_inputs: tuple[str, ...]
    absorbers: tuple[tuple[int, int], ...]


class ScalableGraph:
    """A copy of a model whose channels can be rescaled.

    Args:
        model: an FP32 graph, topologically sorted. It is not modified.

    Attributes:
        model: the copy.
        sites: where factors can be moved between a producer and a Conv's input, in graph order.
        obstacles: for each other tensor that a Conv reads, why its channels cannot be scaled.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self._nodes = self.model.graph.node
        # An initializer that is also an input can be overridden by the caller: not a constant.
        inputs = {item.name for item in model.graph.input}
        self._constants = {
            item.name: item for item in self.model.graph.initializer if item.name not in inputs
        }
        self._readers: dict[str, list[tuple[int, int]]] = {}
        for number, node in enumerate(self._nodes):
            for index, name in enumerate(node.input):
                self._readers.setdefault(name, []).append((number, index))
        self._outputs = {item.name for item in model.graph.output}
        self._channels = _channel_counts(model)
        self.sites: list[ChannelSite] = []
        self.obstacles = {
            node.input[0]: "no Conv or BatchNormalization before it" for node in self._convs()
        }
        for number in range(len(self._nodes)):
            self._look_at(number)

    def scale(self, site: ChannelSite, factors: NDArray[np.float64]) -> None:
        """Multiply the channels of a site by ``factors``, float64 (C,), all > 0.

        With powers of two every tensor of the network keeps its bits, but for the factors.
        """
        producer = self._nodes[site.producer]
        if is_conv(producer):
            rank = self._array(producer, 1).ndim
            self._multiply(site.producer, 1, factors.reshape(-1, *[1] * (rank - 1)))
            if len(producer.input) > 2 and producer.input[2]:
                self._multiply(site.producer, 2, factors)
        else:
            self._multiply(site.producer, _GAMMA, factors)
            self._multiply(site.producer, _BETA, factors)
        for number, first in site.absorbers:
            channels = slice(first, first + site.channels)
            if is_conv(self._nodes[number]):
                self._multiply(number, 1, 1 / self._per_weight(self._nodes[number], factors))
            else:
                self._multiply(number, _GAMMA, 1 / factors, channels)
                self._multiply(number, _MEAN, factors, channels)

    def _look_at(self, number: int) -> None:
        """Add the site of this producer, or say why the Convs behind it see no factor."""
        node = self._nodes[number]
        if not (is_conv(node) or _is_norm(node)):
            return
        search = _Search()
        channels = len(self._array(node, 1)) if self._is_constant(node) else 0
        if channels:
            self._follow(node.output[0], 0, False, search)
        else:
            search.obstacles.append(f"weights of {_name(node)} that are not float32 constants")
            self._follow(node.output[0], 0, False, search)
        for tensor in search.conv_inputs:
            self.obstacles.pop(tensor, None)
        if search.obstacles:
            self.obstacles.update(dict.fromkeys(search.conv_inputs, search.obstacles[0]))
        elif search.conv_inputs:
            inputs = tuple(dict.fromkeys(search.conv_inputs))
            self.sites.append(ChannelSite(number, channels, inputs, tuple(search.absorbers)))

    def _follow(self, tensor: str, first: int, joined: bool, search: _Search) -> None:
        """Visit what reads ``tensor``, in which the site's channels start at ``first``."""
        if tensor in self._outputs:
            search.obstacles.append(f"{tensor} is an output of the graph")
        for number, index in self._readers.get(tensor, []):
            node = self._nodes[number]
            where = _name(node)
            if is_conv(node) and index == 0:
                search.conv_inputs.append(tensor)
                search.absorbers.append((number, first))
                if joined:
                    search.obstacles.append(f"a Concat before {where}")
                if not self._is_constant(node):
                    search.obstacles.append(f"weights of {where} that are not float32 constants")
            elif _is_norm(node) and index == 0 and self._is_constant(node):
                search.absorbers.append((number, first))
            elif _is_plain(node, *_PASSING) and index == 0:
                self._follow(node.output[0], first, joined, search)
            elif _is_plain(node, "Concat") and _attribute(node, "axis", 0) == 1:
                before = [self._channels.get(name) for name in node.input[:index]]
                known = [count for count in before if count is not None]
                if len(known) < len(before):
                    search.obstacles.append(f"unknown channels before {where}")
                self._follow(node.output[0], first + sum(known), True, search)
            else:
                search.obstacles.append(f"{where} ({node.op_type}) reads it too")

    def _is_constant(self, node: onnx.NodeProto) -> bool:
        """Whether the weights of a Conv or BatchNormalization are float32 constants."""
        tensors = [self._constants.get(name) for name in node.input[1:] if name]
        float32 = onnx.TensorProto.FLOAT
        return all(t is not None and t.data_type == float32 for t in tensors)

    def _convs(self) -> list[onnx.NodeProto]:
        return [node for node in self._nodes if is_conv(node)]

    def _array(self, node: onnx.NodeProto, index: int) -> NDArray[np.float32]:
        values: NDArray[np.float32] = numpy_helper.to_array(self._constants[node.input[index]])
        return values

    def _per_weight(self, node: onnx.NodeProto, factors: NDArray[np.float64]) -> NDArray[Any]:
        """The factor of the input channel that each weight of a Conv multiplies."""
        outputs, inputs, *kernel = self._constants[node.input[1]].dims
        groups = _attribute(node, "group", 1)
        per_group = factors.reshape(groups, inputs).repeat(outputs // groups, axis=0)
        return per_group.reshape(outputs, inputs, *[1] * len(kernel))

    def _multiply(
        self,
        number: int,
        index: int,
        factors: NDArray[np.float64],
        channels: slice = slice(None),
    ) -> None:
        """Multiply a constant that a node reads, or some channels of it, for this node alone."""
        node = self._nodes[number]
        name = node.input[index]
        values = self._array(node, index).astype(np.float64)
        values[channels] *= factors
        self._readers[name].remove((number, index))
        if self._readers[name]:  # the others go on reading the constant as it was
            name = node.input[index] = f"{name}_of_{node.output[0]}"
            self._constants[name] = self.model.graph.initializer.add()
        self._readers[name] = [(number, index)]
        self._constants[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))


@dataclass(slots=True)
class _Search:
    """What is found behind a producer."""

    conv_inputs: list[str] = field(default_factory=list)
    absorbers: list[tuple[int, int]] = field(default_factory=list)
    obstacles: list[str] = field(default_factory=list)


def _channel_counts(model: onnx.ModelProto) -> dict[str, int]:
    """Tensor name → size of axis 1, where it is known."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    found = {}
    for item in (*graph.input, *graph.value_info, *graph.output):
        dimensions = item.type.tensor_type.shape.dim
        if len(dimensions) > 1 and dimensions[1].dim_value:
            found[item.name] = dimensions[1].dim_value
    return found


def _is_norm(node: onnx.NodeProto) -> bool:
    return _is_plain(node, "BatchNormalization") and not _attribute(node, "training_mode", 0)


def _is_plain(node: onnx.NodeProto, *types: str) -> bool:
    return node.op_type in types and node.domain in ("", "ai.onnx")


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


def _name(node: onnx.NodeProto) -> str:
    return str(node.name or node.output[0])
