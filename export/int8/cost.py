"""What int8 buys on a card, layer by layer: a roofline model, not a measurement.

A convolution takes the longer of its arithmetic and its memory traffic. Its int8 form reads int8
and writes FP32, as the plans of TensorRT-RTX 1.7.1 do; each form of a tensor, int8 or float, that
some reader wants is written once. Everything else (pointwise work, the upsample) is left out: it is
alike in all configurations. So the model says which layers are worth int8, and whether int8 can pay
at all; what it takes is for ``dabnet-bench`` to measure.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx

from calibration.placements import is_conv, layer_name
from dabnet.errors import InputError
from export.graph.layers import tensor_shapes

FLOAT_BYTES = {"fp32": 4, "fp16": 2}
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
    reads: str
    inputs: int
    outputs: int
    weights: int
    multiply_adds: int


class CostModel:
    """Seconds of the convolutions of a graph, for any choice of those that stay in float.

    Args:
        model: the FP32 graph.
        layers: convolutions that the placement rounds; all others are in float in each choice.
        card: where it is to run.
        example: (batch, height, width) where a call chooses them.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        layers: Collection[str],
        card: Card,
        example: tuple[int, int, int],
    ) -> None:
        shapes = tensor_shapes(model, example)
        self.card, self.layers = card, tuple(layers)
        self._convolutions = []
        for node in model.graph.node:
            if is_conv(node):
                kernel = shapes[node.input[1]]
                outputs = math.prod(shapes[node.output[0]])
                self._convolutions.append(
                    _Convolution(
                        layer_name(node),
                        node.input[0],
                        math.prod(shapes[node.input[0]]),
                        outputs,
                        math.prod(kernel),
                        outputs * math.prod(kernel[1:]),
                    )
                )
        inputs = {convolution.reads for convolution in self._convolutions}
        self._read_as_float = {
            name
            for node in model.graph.node
            if not is_conv(node)
            for name in node.input
            if name in inputs
        }

    def seconds(self, float_layers: Collection[str]) -> float:
        """All convolutions, with ``float_layers`` and those that the placement leaves in float."""
        int8 = set(self.layers) - set(float_layers)
        total, forms = 0.0, dict[tuple[str, bool], int]()
        for conv in self._convolutions:
            total += self._conv_seconds(conv, conv.layer in int8)
            forms[conv.reads, conv.layer in int8] = conv.inputs
            if conv.reads in self._read_as_float:
                forms[conv.reads, False] = conv.inputs
        width = FLOAT_BYTES[self.card.rest]
        written = sum(n * (1 if rounded else width) for (_, rounded), n in forms.items())
        return total + written / self.card.bytes_per_s

    def gain(self, layer: str) -> float:
        """Seconds that int8 saves in ``layer`` where every other is int8; below 0: it costs."""
        return self.seconds((layer,)) - self.seconds(())

    @property
    def speedup(self) -> float:
        """Modelled time with no int8 at all over that with all of it: above 1, int8 pays."""
        return self.seconds(self.layers) / self.seconds(())

    def _conv_seconds(self, conv: _Convolution, int8: bool) -> float:
        width = FLOAT_BYTES[self.card.rest]
        kind = "int8" if int8 else self.card.rest
        read, write = (1, INT8_OUTPUT_BYTES) if int8 else (width, width)
        moved = (conv.inputs + conv.weights) * read + conv.outputs * write
        arithmetic = conv.multiply_adds / self.card.multiply_adds_per_s[kind]
        return max(arithmetic, moved / self.card.bytes_per_s)
