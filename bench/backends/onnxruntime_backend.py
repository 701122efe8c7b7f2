"""ONNX Runtime: exports of ours on the CPU or CUDA provider, and on TensorRT inside onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from bench.backends.base import Recipe
from bench.backends.cache import Workshop
from bench.record import Setting
from dabnet.errors import BackendUnavailable
from dabnet.precision import EXPORTED, FP16, FP32, INT8
from dabnet.runtime.cuda import gpu_unavailable_reason
from dabnet.runtime.ort.runner import OnnxRuntimeRunner, TensorRTProvider

_GRAPH = "-cuda-graph"
_TENSORRT = "tensorrt-"


class OnnxRuntimeBackend:
    """``fp16`` and ``int8`` name the file; the row's ``info`` says how it was computed."""

    name = "onnxruntime"
    variants: Sequence[str] = (
        *EXPORTED,
        *(f"{precision}{_GRAPH}" for precision in (FP32, FP16)),
        *(f"{_TENSORRT}{precision}" for precision in EXPORTED),
    )

    def by_default(self, device: str) -> Sequence[str]:
        # On CPUs it computes FP16 and, with Q/DQ at the inputs of convolutions, INT8 in float32.
        return EXPORTED if device == "cuda" else (FP32,)

    def prepare(self, variant: str, setting: Setting, workshop: Workshop) -> Recipe:
        device = workshop.device
        precision = variant.removesuffix(_GRAPH).removeprefix(_TENSORRT)
        on_tensorrt, captured = variant.startswith(_TENSORRT), variant.endswith(_GRAPH)
        if device == "cpu" and (on_tensorrt or captured):
            raise BackendUnavailable(f"{variant} needs a GPU", fix="choose --device cuda")
        if device == "cpu" and precision == FP16:
            raise BackendUnavailable("onnxruntime's CPU provider computes FP16 graphs in FP32")
        if device == "cuda" and (reason := gpu_unavailable_reason()):
            raise BackendUnavailable(reason)
        # The provider's engines are not strongly typed: beside int8 all is FP32.
        rest = FP32 if precision == INT8 else None
        target = "tensorrt" if on_tensorrt else f"ort-{device}"
        path = workshop.onnx(setting, precision, target, rest=rest)
        threads = workshop.threads_of(setting)
        arguments: dict[str, Any] = {"path": path, "device": device, "threads": threads}
        if captured:
            arguments["cuda_graph"] = True
        if on_tensorrt:
            arguments["tensorrt"] = TensorRTProvider(precision, path.with_suffix(".ort-tensorrt"))
        # Open it once: it may not run here, TensorRT builds its engine, and int8 may be fused.
        with closing(OnnxRuntimeRunner(**arguments)) as runner:
            # Kernels of this machine replace the file's arithmetic: that is scored separately.
            exact = {**arguments, "exact_qdq": True} if runner.fuses_int8 else None
            return Recipe(OnnxRuntimeRunner, arguments, path, exact, runner.manifest, graph=path)
