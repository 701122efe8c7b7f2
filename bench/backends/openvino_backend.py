"""OpenVINO on the CPU: the ``portable`` export, which is the one that it runs fastest.

It fuses PReLU and BatchNorm by itself; what ``ort-cpu`` puts in their place are more nodes to run,
and that was slower in FP32, in bfloat16 and in INT8 on a processor with AVX-512.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.backends.base import Recipe
from bench.backends.cache import Workshop, manifest_in, plain_manifest
from bench.record import Setting
from dabnet.errors import BackendUnavailable
from dabnet.runtime.openvino_runner import OpenVinoRunner, refuse_precision


class OpenVinoBackend:
    """``fp16`` and ``bf16`` run the FP32 file, with OpenVINO's hint for the type of its floats."""

    name = "openvino"
    variants: Sequence[str] = ("fp32", "fp16", "bf16", "int8")

    def by_default(self, device: str) -> Sequence[str]:
        return ("fp32",) if device == "cpu" else ()

    def prepare(self, variant: str, setting: Setting, workshop: Workshop) -> Recipe:
        if workshop.device != "cpu":
            raise BackendUnavailable("OpenVINO computes on the CPU here", fix="choose --device cpu")
        refuse_precision(variant)
        path = workshop.onnx(setting, "int8" if variant == "int8" else "fp32", "portable")
        manifest = manifest_in(path)
        return Recipe(
            OpenVinoRunner,
            {"path": path, "precision": variant, "threads": workshop.threads_of(setting)},
            path,
            manifest=plain_manifest(manifest),
            calibration=manifest.calibration,
            graph=path,
        )
