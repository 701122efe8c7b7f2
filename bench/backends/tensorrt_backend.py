"""TensorRT and TensorRT-RTX: one backend each, as both may be installed side by side."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from bench.backends.base import Recipe
from bench.backends.cache import Workshop
from bench.record import Setting
from dabnet.artifact import Artifact
from dabnet.errors import BackendUnavailable
from dabnet.precision import EXPORTED, FP32, INT8
from dabnet.runtime.cuda import gpu_unavailable_reason
from dabnet.runtime.trt.product import TENSORRT, find_product
from dabnet.runtime.trt.runner import TensorRTRunner

_GRAPH = "-cuda-graph"
_REST_FP32 = "int8-fp32"


class TensorRTBackend:
    """Engines of one product, ``tensorrt`` or ``tensorrt_rtx``, built for the GPU of the run.

    What ``int8`` leaves in float is FP16, but FP32 on TensorRT 8.6; ``int8-fp32`` leaves FP32.
    """

    variants: Sequence[str] = (*EXPORTED, _REST_FP32, *(f"{name}{_GRAPH}" for name in EXPORTED))

    def __init__(self, name: str, product: str) -> None:
        self.name, self._product = name, product

    def by_default(self, device: str) -> Sequence[str]:
        # TensorRT always, as its absence is worth a row; TensorRT-RTX if it is installed.
        installed = importlib.util.find_spec(self._product) is not None
        wanted = self._product == TENSORRT or (device == "cuda" and installed)
        rows = (*EXPORTED, _REST_FP32) if device == "cuda" else EXPORTED
        return rows if wanted else ()

    def prepare(self, variant: str, setting: Setting, workshop: Workshop) -> Recipe:
        if reason := gpu_unavailable_reason(workshop.device.index):
            raise BackendUnavailable(reason)
        if not workshop.device.is_gpu:
            raise BackendUnavailable(f"{self.name} needs a GPU", fix="choose --device cuda")
        product = find_product(self._product)
        precision, rest = variant.removesuffix(_GRAPH), None
        if precision == _REST_FP32:
            precision, rest = INT8, FP32
            if product.is_generation_8:
                raise BackendUnavailable(f"{product} leaves FP32 in its row int8 already")
        engine, source = workshop.engine(setting, precision, product, rest)
        arguments = {
            "engine_path": engine,
            "device": str(workshop.device),
            "cuda_graph": variant.endswith(_GRAPH),
        }
        manifest = Artifact.open(engine).manifest
        return Recipe(TensorRTRunner, arguments, engine, manifest=manifest, graph=source)
