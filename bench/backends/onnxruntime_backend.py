"""ONNX Runtime: exports of ours on the CPU or CUDA provider, or on TensorRT inside onnxruntime."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from bench.backends.base import Recipe
from bench.backends.cache import Workshop
from bench.record import Setting
from dabnet.errors import BackendUnavailable
from dabnet.precision import EXPORTED, FP16, FP32, INT8
from dabnet.runtime.cuda import gpu_unavailable_reason
from dabnet.runtime.ort.providers import RTX_PLUGIN, TensorRTProvider
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from dabnet.runtime.trt.product import TENSORRT, TENSORRT_RTX

_GRAPH = "-cuda-graph"
_PRODUCTS = {"tensorrt": TENSORRT, "tensorrtrtx": TENSORRT_RTX}  # by the start of a variant


class OnnxRuntimeBackend:
    """``fp16`` and ``int8`` name the file; the row's ``info`` says how it was computed.

    ``tensorrt-…`` and ``tensorrtrtx-…`` run on onnxruntime's providers of these.
    """

    name = "onnxruntime"
    variants: Sequence[str] = (
        *EXPORTED,
        *(f"{precision}{_GRAPH}" for precision in (FP32, FP16)),
        *(f"{product}-{precision}" for product in _PRODUCTS for precision in EXPORTED),
    )

    def by_default(self, device: str) -> Sequence[str]:
        # On CPUs it computes FP16 and, with Q/DQ at the inputs of convolutions, INT8 in float32.
        if device == "cpu":
            return (FP32,)
        of_rtx = EXPORTED if importlib.util.find_spec(RTX_PLUGIN) else ()
        return (*EXPORTED, *(f"tensorrtrtx-{precision}" for precision in of_rtx))

    def prepare(self, variant: str, setting: Setting, workshop: Workshop) -> Recipe:
        device, captured = workshop.device, variant.endswith(_GRAPH)
        before, _, precision = variant.removesuffix(_GRAPH).rpartition("-")
        product = _PRODUCTS.get(before)
        if not device.is_gpu and (product or captured):
            raise BackendUnavailable(f"{variant} needs a GPU", fix="choose --device cuda")
        if not device.is_gpu and precision == FP16:
            raise BackendUnavailable("onnxruntime's CPU provider computes FP16 graphs in FP32")
        if device.is_gpu and (reason := gpu_unavailable_reason(device.index)):
            raise BackendUnavailable(reason)
        # The engines of the provider of TensorRT are not strongly typed: beside int8 all is FP32.
        rest = FP32 if precision == INT8 and product != TENSORRT_RTX else None
        target = product.replace("_", "-") if product else f"ort-{device.kind}"
        path = workshop.onnx(setting, precision, target, rest=rest)
        threads = workshop.threads_of(setting)
        arguments: dict[str, Any] = {"path": path, "device": str(device), "threads": threads}
        if captured:
            arguments["cuda_graph"] = True
        if product:
            cache = path.with_suffix(f".ort-{before}-{workshop.card_key}")
            arguments["tensorrt"] = TensorRTProvider(precision, cache, product)
        # Open it once: it may not run here, TensorRT builds its engine, and int8 may be fused.
        with closing(OnnxRuntimeRunner(**arguments)) as runner:
            # Kernels of this machine replace the file's arithmetic: that is scored separately.
            exact = {**arguments, "exact_qdq": True} if runner.fuses_int8 else None
            return Recipe(OnnxRuntimeRunner, arguments, path, exact, runner.manifest, graph=path)
