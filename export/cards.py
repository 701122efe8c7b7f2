"""Data sheets of GPUs, for models of time. A model is no measurement: ``dabnet-bench`` measures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dabnet.graph.roofline import Kernel

LAUNCH_S = 2e-6
"""Seconds that a kernel takes beside its work: launch and ramp, a round figure."""


@dataclass(frozen=True, slots=True)
class Card:
    """Data sheet of a GPU, dense.

    Attributes:
        name: on the command line.
        target: its compute capability, such as ``sm86``.
        multiply_adds_per_s: by type: half of the data sheet's operations.
        bytes_per_s: of its memory.
        rest: the float type that int8 competes with there.
    """

    name: str
    target: str
    multiply_adds_per_s: Mapping[str, float]
    bytes_per_s: float
    rest: str

    def seconds(self, kernels: Iterable[Kernel]) -> float:
        """Each kernel takes the longer of its arithmetic and its traffic, and its launch.

        No cache is assumed: where the L2 holds a tensor, it takes less.
        """
        return sum(max(kernel.seconds(self)) + LAUNCH_S for kernel in kernels)


# NVIDIA's data sheets and architecture papers: GP102 (FP16 at 1/64, DP4A at 4 times FP32), GA102,
# AD102 and GH100 (tensor cores, FP16 with FP16 sums on GeForce, dense).
CARDS = {
    card.name: card
    for card in (
        Card(
            "gtx-1080-ti",
            "sm61",
            {"fp32": 5.67e12, "fp16": 0.089e12, "int8": 22.7e12},
            484e9,
            "fp32",
        ),
        Card("rtx-3090", "sm86", {"fp32": 17.8e12, "fp16": 71e12, "int8": 142e12}, 936e9, "fp16"),
        Card("rtx-4090", "sm89", {"fp32": 41.3e12, "fp16": 165e12, "int8": 330e12}, 1008e9, "fp16"),
        Card("h200", "sm90", {"fp32": 33.5e12, "fp16": 495e12, "int8": 990e12}, 4800e9, "fp16"),
    )
}
