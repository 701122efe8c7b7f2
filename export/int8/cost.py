"""The gain of int8 on a card, layer by layer: a roofline model, not a measurement.

A convolution takes the longer of its arithmetic and its memory traffic. Its int8 form reads int8
and writes FP32, as the plans of TensorRT-RTX 1.7.1 do; each form of a tensor, int8 or float, that
some reader wants is written once. Everything else (pointwise work, the upsample) is left out: it is
alike in all configurations. So the model says which layers are worth int8, and whether int8 can pay
at all; ``dabnet-bench`` measures the real time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from dabnet.errors import InputError
from dabnet.graph.facts import inferred, is_conv, layer_name, nodes_of, static_shape
from dabnet.graph.roofline import BYTES, Kernel

INT8_OUTPUT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Card:
    """Data sheet of a GPU, dense.

    Attributes:
        name: on the command line.
        multiply_adds_per_s: by type: half of the data sheet's operations.
        bytes_per_s: of its memory.
        rest: the float type that int8 competes with there.
    """

    name: str
    multiply_adds_per_s: Mapping[str, float]
    bytes_per_s: float
    rest: str


# NVIDIA's data sheets and architecture papers: GP102 (FP16 at 1/64, DP4A at 4 times FP32), GA102,
# AD102 and GH100 (tensor cores, FP16 with FP16 sums on GeForce, dense).
CARDS = {
    card.name: card
    for card in (
        Card("gtx-1080-ti", {"fp32": 5.67e12, "fp16": 0.089e12, "int8": 22.7e12}, 484e9, "fp32"),
        Card("rtx-3090", {"fp32": 17.8e12, "fp16": 71e12, "int8": 142e12}, 936e9, "fp16"),
        Card("rtx-4090", {"fp32": 41.3e12, "fp16": 165e12, "int8": 330e12}, 1008e9, "fp16"),
        Card("h200", {"fp32": 33.5e12, "fp16": 495e12, "int8": 990e12}, 4800e9, "fp16"),
    )
}
DEFAULT_CARD = "rtx-3090"


def card_of(name: str) -> Card:
    """Return the card of that name."""
    if name not in CARDS:
        raise InputError(f"card {name!r}", "one of " + ", ".join(CARDS))
    return CARDS[name]


@dataclass(frozen=True, slots=True)
class _Convolution:
    layer: str
    reads: ir.Value
    inputs: int
    outputs: int
    weights: int
    multiply_adds: int


class CostModel:
    """Seconds of the convolutions of a graph, for any choice of those that stay in float.

    Args:
        model: the FP32 graph.
        layers: convolutions that the placement rounds; all others are in float in each choice.
        card: the GPU to model.
        example: (batch, height, width) for the sides that a call chooses.
    """

    def __init__(
        self, model: ir.Model, layers: Collection[str], card: Card, example: tuple[int, int, int]
    ) -> None:
        self.card, self.layers = card, tuple(layers)
        self._width = BYTES[card.rest]
        graph = inferred(model, example).graph
        self._convolutions = [_convolution(node) for node in nodes_of(graph, "Conv")]

    def seconds(self, float_layers: Collection[str]) -> float:
        """All convolutions, with ``float_layers`` and those that the placement leaves in float."""
        int8 = set(self.layers) - set(float_layers)
        total, forms = 0.0, dict[tuple[ir.Value, bool], int]()
        for conv in self._convolutions:
            total += self._conv_seconds(conv, conv.layer in int8)
            forms[conv.reads, conv.layer in int8] = conv.inputs
            if not all(map(is_conv, conv.reads.consumers())):
                forms[conv.reads, False] = conv.inputs
        written = sum(n * (1 if rounded else self._width) for (_, rounded), n in forms.items())
        return total + written / self.card.bytes_per_s

    def gain(self, layer: str) -> float:
        """Seconds that int8 saves in ``layer`` if every other is int8; below 0: it costs."""
        return self.seconds((layer,)) - self.seconds(())

    @property
    def speedup(self) -> float:
        """Modelled time with no int8 at all over that with all of it: above 1, int8 pays."""
        return self.seconds(self.layers) / self.seconds(())

    def _conv_seconds(self, conv: _Convolution, int8: bool) -> float:
        kind = "int8" if int8 else self.card.rest
        read, write = (1, INT8_OUTPUT_BYTES) if int8 else (self._width, self._width)
        moved = (conv.inputs + conv.weights) * read + conv.outputs * write
        return max(Kernel(conv.layer, kind, conv.multiply_adds, moved).seconds(self.card))


def _convolution(node: ir.Node) -> _Convolution:
    read, kernel = node.inputs[:2]
    sizes = [static_shape(value) for value in (read, kernel, node.outputs[0])]
    known = [size for size in sizes if size is not None]
    if read is None or len(known) < len(sizes):
        raise InputError(f"the convolution {layer_name(node)} of unknown size", "a fixed size")
    weight = known[1]
    inputs, weights, outputs = map(math.prod, known)
    return _Convolution(
        layer_name(node), read, inputs, outputs, weights, outputs * math.prod(weight[1:])
    )
