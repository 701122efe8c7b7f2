"""ONNX Runtime: exports of ours on the CPU or CUDA provider, and on TensorRT inside onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.backends.base import Recipe
from bench.backends.cache import Workshop, plain_manifest
from bench.record import Setting
from dabnet.errors import BackendUnavailable
from dabnet.runtime.cuda import gpu_unavailable_reason
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from dabnet.runtime.ort.session import TensorRTProvider

_GRAPH = "-cuda-graph"
_TENSORRT = "tensorrt-"


class OnnxRuntimeBackend:
    """A row says ``fp16`` or ``int8`` of the file; ``info`` says how that was computed."""

    name = "onnxruntime"
    variants: Sequence[str] = (
        *("fp32", "fp16", "int8"),
        *(f"{precision}{_GRAPH}" for precision in ("fp32", "fp16")),
        *(f"{_TENSORRT}{precision}" for precision in ("fp32", "fp16", "int8")),
    )

    def by_default(self, device: str) -> Sequence[str]:
        return ("fp32", "fp16", "int8")

    def prepare(self, variant: str, setting: Setting, workshop: Workshop) -> Recipe:
        device = workshop.device
        precision = variant.removesuffix(_GRAPH).removeprefix(_TENSORRT)
        on_tensorrt, captured = variant.startswith(_TENSORRT), variant.endswith(_GRAPH)
        if device == "cpu" and (on_tensorrt or captured):
            raise BackendUnavailable(f"{variant} needs a GPU", fix="choose --device cuda")
        if device == "cpu" and precision == "fp16":
            raise BackendUnavailable("onnxruntime's CPU provider computes FP16 graphs in FP32")
        if device == "cuda" and (reason := gpu_unavailable_reason()):
            raise BackendUnavailable(reason)
        target = "tensorrt" if on_tensorrt else f"ort-{device}"
        path = workshop.onnx(setting, precision, target)
        arguments: dict[str, Any] = {
            "path": path,
            "device": device,
            "threads": workshop.threads_of(setting),
        }
        if captured:
            arguments["cuda_graph"] = True
        if on_tensorrt:
            arguments["tensorrt"] = TensorRTProvider(precision, path.with_suffix(".ort-tensorrt"))
        return self._tried(arguments)

    def _tried(self, arguments: dict[str, Any]) -> Recipe:
        """Open it once: it may not run here, TensorRT builds its engine, and int8 may be fused."""
        runner = OnnxRuntimeRunner(**arguments)
        try:
            manifest = runner.manifest
            # Kernels of this machine take the place of the file's arithmetic: that is scored apart.
            exact = {**arguments, "exact_qdq": True} if runner.fuses_int8 else None
        finally:
            runner.close()
        return Recipe(
            OnnxRuntimeRunner,
            arguments,
            arguments["path"],
            exact=exact,
            manifest=plain_manifest(manifest),
            calibration=manifest.calibration,
            graph=arguments["path"],
        )
