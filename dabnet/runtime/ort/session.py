"""Sessions of onnxruntime: its execution providers, their settings, and the loaded manifest."""

from __future__ import annotations

import importlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dabnet.errors import ArtifactError, BackendUnavailable
from dabnet.precision import FP16, INT8
from dabnet.runtime.manifest import (
    DYNAMIC,
    Manifest,
    TensorInfo,
    carried_manifest,
    require_tensors,
)
from dabnet.runtime.ort.placement import CPU


def manifest_of_session(session: Any, source: str) -> Manifest:
    """Return the manifest that a loaded graph carries; ArtifactError if its tensors differ."""
    manifest = carried_manifest(session.get_modelmeta().custom_metadata_map, source)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    require_tensors(manifest, [*map(_tensor, inputs)], [*map(_tensor, outputs)], source)
    return manifest


def _tensor(real: Any) -> TensorInfo:
    """onnxruntime writes ``tensor(float)``, and no number for a side that each call chooses."""
    name = str(real.type).removeprefix("tensor(").removesuffix(")")
    shape = tuple(side if isinstance(side, int) else DYNAMIC for side in real.shape)
    return TensorInfo(real.name, "float32" if name == "float" else name, shape)


CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
PROVIDERS = {"cpu": CPU, "cuda": CUDA}

# FP32 must mean FP32, and TF32 is this provider's default. The search is its default as well; said,
# so that a release that changes it changes no measurement.
# https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#configuration-options
CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"}

# This provider has no option for it; the driver's libraries read it when they are first used.
# https://github.com/microsoft/onnxruntime/issues/26029
TF32_OVERRIDE = "NVIDIA_TF32_OVERRIDE"


@dataclass(frozen=True, slots=True)
class TensorRTProvider:
    """Run on TensorRT inside onnxruntime.

    https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html

    Attributes:
        precision: of the artifact: which types the builder may use.
        cache: folder of the engines that the provider builds, and of its kernel timings.
    """

    precision: str
    cache: Path

    def options(self) -> dict[str, str]:
        """The provider's options."""
        return {
            "trt_fp16_enable": str(int(self.precision == FP16)),
            "trt_int8_enable": str(int(self.precision == INT8)),
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(self.cache),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(self.cache),
        }


def open_session(
    ort: Any,
    path: Path,
    options: Any,
    device: str,
    cuda_graph: bool,
    tensorrt: TensorRTProvider | None,
) -> Any:
    """Return a session whose first provider is the one that was asked for.

    With ``tensorrt``, TF32 is switched off for the whole process.

    Raises:
        BackendUnavailable: onnxruntime lacks the provider or cannot start it.
        ArtifactError: it cannot load the file.
    """
    provider = TENSORRT if tensorrt else PROVIDERS[device]
    if provider not in ort.get_available_providers():
        raise BackendUnavailable(
            f"onnxruntime {ort.__version__} is built without {provider}",
            fix="install onnxruntime-gpu: pip install -c constraints/gpu.txt '.[gpu]'",
        )
    settings: dict[str, str] = {}
    if provider != CPU and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # finds the CUDA libraries of PyTorch's wheels
    if provider == CUDA:
        settings = {**CUDA_OPTIONS, "enable_cuda_graph": str(int(cuda_graph))}
    if tensorrt:
        os.environ[TF32_OVERRIDE] = "0"
        with suppress(ImportError):
            importlib.import_module("tensorrt_libs")  # loads those that pip installed
        tensorrt.cache.mkdir(parents=True, exist_ok=True)
        settings = tensorrt.options()
    try:
        session = ort.InferenceSession(str(path), options, providers=[(provider, settings)])
    except Exception as error:  # onnxruntime raises classes of its own for each status
        raise ArtifactError(
            f"onnxruntime cannot load {str(path)!r} ({first_line(error)})",
            "an ONNX file written by dabnet-export",
        ) from error
    if provider not in session.get_providers():
        raise BackendUnavailable(
            f"onnxruntime could not start {provider} and would have run on the CPU",
            fix="check the NVIDIA driver and the libraries that onnxruntime-gpu asks for"
            + (" (TensorRT 10)" if tensorrt else ""),
        )
    return session


def first_line(error: Exception) -> str:
    """The first line of an error's text, for a message of one line."""
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
