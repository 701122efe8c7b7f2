"""The gain of int8 on a card, layer by layer: a roofline model, not a measurement.

A convolution takes the longer of its arithmetic and its memory traffic. Its int8 form reads int8
and writes FP32, as the plans of TensorRT-RTX 1.7.1 do; each form of a tensor, int8 or float, that
some reader wants is written once. Everything else (pointwise work, the upsample) is left out: it is
alike in all configurations. So the model says which layers are worth int8, and whether int8 can pay
at all; ``dabnet-bench`` measures the real time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from dabnet.graph.facts import inferred, is_conv, layer_name, layers_of, nodes_of
from dabnet.graph.roofline import BYTES, Kernel, elements

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


@dataclass(frozen=True, slots=True)
class _Convolution:
    """One convolution: the tensor that it reads, and its work in float and in int8."""

    reads: ir.Value
    kernels: tuple[Kernel, Kernel]


class CostModel:
    """Seconds of the convolutions of a graph, for any choice of those that stay in float.

    Args:
        model: the FP32 graph.
        layers: convolutions that the placement rounds; all others are in float in each choice.
        card: the GPU to model.
        example: (batch, height, width) for the sides that a call chooses.

    Raises:
        ArtifactError: a size cannot be inferred.
    """

    def __init__(
        self, model: ir.Model, layers: Collection[str], card: Card, example: tuple[int, int, int]
    ) -> None:
        self.card, self.layers = card, tuple(layers)
        self._width = BYTES[card.rest]
        graph = inferred(model, example).graph
        work = {node: layer.multiply_adds or 0 for node, layer in layers_of(graph).items()}
        self._convolutions = [self._convolution(n, work[n]) for n in nodes_of(graph, "Conv")]

    def _convolution(self, node: ir.Node, work: int) -> _Convolution:
        reads, kernel = node.inputs[:2]
        assert reads is not None and kernel is not None
        read, written = elements(reads) + elements(kernel), elements(node.outputs[0])
        as_float = Kernel(layer_name(node), self.card.rest, work, (read + written) * self._width)
        as_int8 = Kernel(layer_name(node), "int8", work, read + written * INT8_OUTPUT_BYTES)
        return _Convolution(reads, (as_float, as_int8))

    def seconds(self, float_layers: Collection[str]) -> float:
        """All convolutions, with ``float_layers`` and those that the placement leaves in float."""
        int8 = set(self.layers) - set(float_layers)
        total, written = 0.0, dict[tuple[ir.Value, int], int]()
        for conv in self._convolutions:
            kernel = conv.kernels[conv.kernels[0].name in int8]
            total += max(kernel.seconds(self.card))
            widths = [1 if kernel.precision == "int8" else self._width]
            if not all(map(is_conv, conv.reads.consumers())):
                widths.append(self._width)
            for width in widths:
                written[conv.reads, width] = width * elements(conv.reads)
        return total + sum(written.values()) / self.card.bytes_per_s

    def gain(self, layer: str) -> float:
        """Seconds that int8 saves in ``layer`` if every other is int8; below 0: it costs."""
        return self.seconds((layer,)) - self.seconds(())
