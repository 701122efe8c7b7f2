"""The plan of an engine: its kernels, and the memory that each one moves.

Names of types are TensorRT's. A kernel reads each of its input tensors once and writes each output
once. No cache is assumed: where a card's L2 holds a tensor, less reaches its memory.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

BYTES = {
    **{"Float": 4, "Int32": 4, "Int64": 8, "Half": 2, "BFloat16": 2},
    **{"Int8": 1, "UInt8": 1, "Bool": 1, "FP8": 1, "Int4": 0.5, "FP4": 0.5},
}

CONVOLUTIONS = (
    *("correlation", "runtime_fusion", "gemm"),
    *("CaskConvolution", "CaskGemmConvolution", "CudaDepthwiseConvolution"),
)
"""Names of a kernel with a convolution: of TensorRT-RTX, then of TensorRT 8.6 and 10."""

WEIGHTS = "weights"
"""Name of the weights of a convolution that TensorRT 8 and 10 list by their number alone."""


@dataclass(frozen=True, slots=True)
class PlanTensor:
    """One tensor of a kernel."""

    name: str
    type: str  # such as ``Half``; "" where the report does not name it
    shape: tuple[int, ...] | None = None  # None if a call chooses it, or it is not listed

    @property
    def bytes(self) -> int:
        """0 if the shape is not known."""
        return 0 if self.shape is None else round(math.prod(self.shape) * BYTES.get(self.type, 0))


@dataclass(frozen=True, slots=True)
class PlanKernel:
    """One kernel, as TensorRT lists it."""

    name: str
    kind: str  # such as ``correlation``, ``kgen``, ``CaskConvolution``
    reads: tuple[PlanTensor, ...]
    writes: tuple[PlanTensor, ...]
    constants: tuple[PlanTensor, ...] | None = None  # None where the report does not list them
    # Number of nodes of the ONNX graph in it, by operator; {} where they are not listed.
    operators: dict[str, int] = field(default_factory=dict)

    @property
    def activation_bytes(self) -> int:
        return sum(tensor.bytes for tensor in (*self.reads, *self.writes))

    @property
    def constant_bytes(self) -> int:
        return sum(tensor.bytes for tensor in self.constants or ())

    @property
    def is_convolution(self) -> bool:
        return self.kind in CONVOLUTIONS

    @property
    def multiply_adds(self) -> int:
        """Of a convolution: by its largest constant with a row per output channel."""
        shape = (self.writes[0].shape if self.is_convolution and self.writes else None) or ()
        if len(shape) != 4:
            return 0
        sizes = [0]
        for constant in self.constants or ():
            kernel = constant.shape or ()
            if len(kernel) == 4 and kernel[0] == shape[1]:
                sizes.append(math.prod(kernel[1:]))
            elif len(kernel) == 1 and constant.name == WEIGHTS:
                sizes.append(kernel[0] // shape[1])
        return math.prod(shape) * max(sizes)

    @property
    def arithmetic(self) -> str:
        """The type in which it computes: what it reads (so does TREx), not what it writes.

        An int8 convolution of TensorRT-RTX reads Int8 and writes Float, and the kernel before it
        reads Float and writes Int8.
        """
        reads, writes = _types(self.reads), _types(self.writes)
        if not reads or self._only_dequantises:
            return writes[0] if writes else ""
        return next((kind for kind in reads if kind != "Bool"), "Bool")  # past a condition

    @property
    def _only_dequantises(self) -> bool:
        """Reads Int8 and has no other Int8: it would prove an int8 engine that is none."""
        reads, writes = _types(self.reads), _types(self.writes)
        if reads[0] != "Int8" or not writes or "Int8" in writes:
            return False
        if self.constants is None:
            return self.kind in ("kgen", "Reformat")  # generated pointwise kernels, and copies
        return "Int8" not in _types(self.constants)


Plan = tuple[PlanKernel, ...]
"""The kernels of an engine, in the order in which TensorRT lists them."""


def types_of(kernels: Iterable[PlanKernel]) -> dict[str, int]:
    """Count kernels by the type in which they compute."""
    counts = Counter(kernel.arithmetic for kernel in kernels)
    return {kind: counts[kind] for kind in sorted(counts) if kind}


def _types(tensors: Iterable[PlanTensor]) -> list[str]:
    return [tensor.type for tensor in tensors if tensor.type]
