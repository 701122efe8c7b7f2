"""The precisions: what each means to every backend, and what it asks of the machine.

A precision is a name, as commands, manifests and rows write it; ``PRECISIONS`` holds the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FP32: Final = "fp32"
FP16: Final = "fp16"
BF16: Final = "bf16"
INT8: Final = "int8"


@dataclass(frozen=True, slots=True)
class Precision:
    """One precision.

    Attributes:
        dtype: of numpy and torch.
        openvino: OpenVINO's ``INFERENCE_PRECISION_HINT``: the type of floats. In an INT8 artifact
            Q/DQ nodes say what is int8.
        openvino_types: what its runtime model may call the type of a convolution.
        tensorrt: type in which at least one layer of an engine must compute.
        tensorrt_foreign: types in which no layer may compute.
        sound_agreement: share of pixels, 0…1, with PyTorch FP32 below which a backend that runs in
            this precision is broken: on hard images a sound one may lose more than an export.
        minimum_agreement: the same of an exported artifact on the images of its check; None where
            no artifact is exported.
        cpu_flags: flags of /proc/cpuinfo, of which one says that the processor multiplies this type
            by itself; () where every processor does.
    """

    name: str
    dtype: str
    openvino: str
    openvino_types: tuple[str, ...]
    tensorrt: str
    sound_agreement: float
    tensorrt_foreign: tuple[str, ...] = ()
    minimum_agreement: float | None = None
    cpu_flags: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """``FP16``: OpenVINO's capability and TensorRT's ``BuilderFlag``."""
        return self.name.upper()


_ALL = (
    Precision(
        *(FP32, "float32", "f32", ("f32",), "Float", 0.999),
        tensorrt_foreign=("Half", "BFloat16", "Int8", "FP8"),
        minimum_agreement=0.9999,
    ),
    Precision(
        *(FP16, "float16", "f16", ("f16",), "Half", 0.99),
        tensorrt_foreign=("Int8", "FP8"),
        minimum_agreement=0.999,
        cpu_flags=("avx512_fp16", "amx_fp16", "asimdhp"),
    ),
    Precision(
        *(BF16, "bfloat16", "bf16", ("bf16",), "BFloat16", 0.98),
        cpu_flags=("avx512_bf16", "amx_bf16", "bf16"),
    ),
    Precision(INT8, "int8", "f32", ("i8", "u8"), "Int8", 0.9, minimum_agreement=0.95),
)
PRECISIONS: Final = {precision.name: precision for precision in _ALL}

EXPORTED: Final = tuple(p.name for p in _ALL if p.minimum_agreement is not None)
"""Precisions of an artifact."""
