"""OpenVINO on the CPU: the ``portable`` export, which is the one that it runs fastest.

It fuses PReLU and BatchNorm by itself; the nodes that ``ort-cpu`` puts in their place were slower
in FP32, bfloat16 and INT8 on a processor with AVX-512.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.backends.base import Recipe
from bench.backends.cache import Workshop
from bench.record import Setting
from dabnet.artifact import Artifact
from dabnet.errors import BackendUnavailable
from dabnet.precision import FP32, INT8, PRECISIONS
from dabnet.runtime.openvino_runner import OpenVinoRunner, refuse_precision


class OpenVinoBackend:
    """``fp16`` and ``bf16`` run the FP32 file, with OpenVINO's hint for the type of its floats."""

    name = "openvino"
    variants: Sequence[str] = tuple(PRECISIONS)

    def by_default(self, device: str) -> Sequence[str]:
        return (FP32,) if device == "cpu" else ()

    def prepare(self, variant: str, setting: Setting, workshop: Workshop) -> Recipe:
        if workshop.device != "cpu":
            raise BackendUnavailable("OpenVINO runs on the CPU only", fix="choose --device cpu")
        refuse_precision(variant)
        path = workshop.onnx(setting, INT8 if variant == INT8 else FP32, "portable")
        threads = workshop.threads_of(setting)
        arguments = {"path": path, "precision": variant, "threads": threads}
        manifest = Artifact.open(path).manifest
        return Recipe(OpenVinoRunner, arguments, path, manifest=manifest, graph=path)
