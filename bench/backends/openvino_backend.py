"""OpenVINO on the CPU: the ``portable`` export in FP32, the one for ``openvino-half`` in others.

In FP32 it fuses PReLU and BatchNorm by itself, and the nodes that ``ort-cpu`` puts in their place
are slower. The rest of an INT8 file is in bfloat16 where the processor multiplies it and a few
calls are faster so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from bench.backends.base import Recipe
from bench.backends.cache import Workshop
from bench.record import Setting
from dabnet.artifact import Artifact
from dabnet.errors import BackendUnavailable, MissingPackage
from dabnet.precision import BF16, FP16, FP32, INT8, PRECISIONS
from dabnet.runtime.openvino_runner import OpenVinoRunner, offered_precisions, refuse_precision

TRIES = 5


def call_s(arguments: Mapping[str, Any]) -> float:
    """Seconds of the fastest of a few calls of a runner, which choose between two ways to run."""
    with closing(OpenVinoRunner(**arguments)) as runner:
        runner.stage([np.zeros(runner.info.shape, np.uint8)])
        seconds = []
        for _ in range(TRIES + 1):
            start = time.perf_counter()
            runner.launch(0)
            seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


class OpenVinoBackend:
    """``fp16`` and ``bf16`` run an FP32 file, with OpenVINO's hint for the type of its floats."""

    name = "openvino"
    variants: Sequence[str] = tuple(PRECISIONS)

    def by_default(self, device: str) -> Sequence[str]:
        if device != "cpu":
            return ()
        try:
            offered = offered_precisions()
        except MissingPackage:  # its row says so
            return (FP32,)
        return [name for name in (FP32, BF16, INT8) if name in offered]

    def prepare(self, variant: str, setting: Setting, workshop: Workshop) -> Recipe:
        if workshop.device.is_gpu:
            raise BackendUnavailable("OpenVINO runs on the CPU only", fix="choose --device cpu")
        refuse_precision(variant)
        has_choice = variant == INT8 and BF16 in offered_precisions()
        in_half = variant in (FP16, BF16) or has_choice
        precision = INT8 if variant == INT8 else FP32
        path = workshop.onnx(setting, precision, "openvino-half" if in_half else "portable")
        threads = workshop.threads_of(setting)
        arguments = {"path": path, "precision": variant, "threads": threads, "rest": FP32}
        if has_choice:
            arguments["rest"] = min((BF16, FP32), key=lambda t: call_s({**arguments, "rest": t}))
        manifest = Artifact.open(path).manifest
        return Recipe(OpenVinoRunner, arguments, path, manifest=manifest, graph=path)
