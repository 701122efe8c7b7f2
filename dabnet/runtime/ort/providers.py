"""The execution providers of onnxruntime: their options, and a session that really runs on one.

A GPU's provider gets our stream (``user_compute_stream``, the decimal address of a cudaStream_t):
copies, runs and events are then in one order.
https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#configuration-options
https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html
https://pypi.org/project/onnxruntime-ep-nv-tensorrt-rtx/ (its options are in the wheel's header)
"""

from __future__ import annotations

import importlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dabnet.errors import ArtifactError, BackendUnavailable, first_line
from dabnet.files import writable_directory
from dabnet.precision import FP16, INT8
from dabnet.runtime.ort.placement import CPU
from dabnet.runtime.trt.product import TENSORRT, TENSORRT_RTX

CUDA = "CUDAExecutionProvider"
OF_TENSORRT = {
    TENSORRT: "TensorrtExecutionProvider",
    TENSORRT_RTX: "NvTensorRTRTXExecutionProvider",
}

# FP32 must mean FP32, and TF32 is this provider's default. The search is its default as well; said,
# so that a release that changes it changes no measurement.
CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"}

# The TensorRT provider has no option for it; the driver's libraries read it at their first use.
# https://github.com/microsoft/onnxruntime/issues/26029
TF32_OVERRIDE = "NVIDIA_TF32_OVERRIDE"

# Neither the plug-in's options nor anything documented switches it off in TensorRT-RTX's kernels.
TF32_NOTE = "float layers may use TF32"

RTX_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"


@dataclass(frozen=True, slots=True)
class TensorRTProvider:
    """Run on TensorRT or TensorRT-RTX inside onnxruntime, with the provider's own CUDA graph."""

    precision: str  # of the artifact: which types the builder may use
    cache: Path  # folder of the engines, kernels and timings that the provider makes
    product: str = TENSORRT

    @property
    def name(self) -> str:
        return OF_TENSORRT[self.product]

    def options(self) -> dict[str, str]:
        if self.product == TENSORRT_RTX:  # its networks take their types from the file
            return {"enable_cuda_graph": "1", "nv_runtime_cache_path": str(self.cache)}
        return {
            "trt_fp16_enable": str(int(self.precision == FP16)),
            "trt_int8_enable": str(int(self.precision == INT8)),
            "trt_cuda_graph_enable": "1",
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(self.cache),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(self.cache),
        }


@dataclass(frozen=True, slots=True)
class Provider:
    """Where a session is to run.

    Attributes:
        gpu: number of the GPU, as CUDA counts; None for the CPU.
        stream: of that GPU, 0 for none.
        pci_bus_id: of that GPU.
    """

    gpu: int | None = None
    stream: int = 0
    pci_bus_id: str = ""
    cuda_graph: bool = False
    tensorrt: TensorRTProvider | None = None

    @property
    def name(self) -> str:
        if self.tensorrt:
            return self.tensorrt.name
        return CPU if self.gpu is None else CUDA

    @property
    def settings(self) -> dict[str, str]:
        """The provider's options by name."""
        if self.gpu is None:
            return {}
        stream = {"user_compute_stream": str(self.stream)}
        if self.tensorrt and self.tensorrt.product == TENSORRT_RTX:  # its device is an OrtEpDevice
            return {**stream, **self.tensorrt.options()}
        stream["device_id"] = str(self.gpu)
        if self.tensorrt:
            return {**stream, **self.tensorrt.options()}
        return {**stream, **CUDA_OPTIONS, "enable_cuda_graph": str(int(self.cuda_graph))}

    def require(self, ort: Any) -> None:
        """Raise BackendUnavailable unless the module ``ort``, or a plug-in, has the provider."""
        if self.tensorrt and self.tensorrt.product == TENSORRT_RTX:
            _rtx_plugin()
        elif self.name not in ort.get_available_providers():
            raise BackendUnavailable(
                f"onnxruntime {ort.__version__} is built without {self.name}",
                fix="install onnxruntime-gpu: pip install -c constraints/gpu.txt '.[gpu]'",
            )

    def session(self, ort: Any, path: Path, options: Any) -> Any:
        """Load an ONNX file with the module ``ort`` and its ``SessionOptions``.

        Raises:
            ArtifactError: the file does not load.
            BackendUnavailable: onnxruntime cannot start the provider: by itself it would fall back
                to the CPU.
        """
        if self.gpu is not None and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # finds the CUDA libraries of PyTorch's wheels
        if self.tensorrt:
            os.environ[TF32_OVERRIDE] = "0"
            with suppress(ImportError):
                importlib.import_module("tensorrt_libs")  # loads those that pip installed
            writable_directory(self.tensorrt.cache)
        try:
            if self.tensorrt and self.tensorrt.product == TENSORRT_RTX:
                options.add_provider_for_devices([self._rtx_device(ort)], self.settings)
                session = ort.InferenceSession(str(path), options)
            else:
                chosen = [(self.name, self.settings)]
                session = ort.InferenceSession(str(path), options, providers=chosen)
        except BackendUnavailable:
            raise
        except Exception as error:  # onnxruntime raises classes of its own for each status
            raise ArtifactError(
                f"onnxruntime cannot load {str(path)!r} ({first_line(error)})",
                "an ONNX file written by dabnet-export",
            ) from error
        if self.name not in session.get_providers():
            fix = "check the NVIDIA driver and the libraries that onnxruntime-gpu asks for"
            raise BackendUnavailable(
                f"onnxruntime could not start {self.name} and would have run on the CPU",
                fix=fix + (" (TensorRT 10)" if self.tensorrt else ""),
            )
        return session

    def _rtx_device(self, ort: Any) -> Any:
        """The plug-in's device that is this GPU: by its PCI address where the device tells it."""
        assert self.gpu is not None
        plugin = _rtx_plugin()
        name = plugin.get_ep_name()
        if name not in {device.ep_name for device in ort.get_ep_devices()}:
            ort.register_execution_provider_library(name, plugin.get_library_path())
        devices = [device for device in ort.get_ep_devices() if device.ep_name == name]
        address = self.pci_bus_id.lower()
        known = [dict(d.device.metadata).get("pci_bus_id", "").lower() for d in devices]
        if address in known:
            return devices[known.index(address)]
        if len(devices) == 1 and not any(known) and self.gpu == 0:
            return devices[0]
        if devices and not any(known):
            given = f"{self.name} does not say which of its {len(devices)} devices is this GPU"
            raise BackendUnavailable(given, fix="make it the only one: CUDA_VISIBLE_DEVICES")
        raise BackendUnavailable(
            f"{self.name} does not serve this GPU",
            "compute capability 8.6, 8.9, or 12.0 and later",
            "use the provider of TensorRT or CUDA",
        )


def _rtx_plugin() -> Any:
    """NVIDIA's plug-in for TensorRT-RTX; it loads its libraries when it is imported."""
    try:
        return importlib.import_module(RTX_PLUGIN)
    except ImportError as error:
        given = f"the package {RTX_PLUGIN} is not installed"
        fix = "pip install onnxruntime-ep-nv-tensorrt-rtx (Ampere RTX cards or newer)"
        raise BackendUnavailable(given, fix=fix) from error
