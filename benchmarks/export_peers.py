"""What a user could run instead of our export, each behind the Runner protocol of the timer."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dabnet.errors import MissingPackage
from dabnet.models.image_to_mask import ImageToMask
from dabnet.runtime.runner import RunnerInfo, Uint8Array, check_images
from dabnet.runtime.torch_runner import TorchRunner

Shape = tuple[int, int, int, int]


class OpenVinoRunner:
    """OpenVINO's CPU plugin on an ONNX file, in FP32, set for latency.

    API: https://docs.openvino.ai/2025/api/ie_python_api/api.html (``Core.compile_model``).
    """

    def __init__(self, path: Path, shape: Shape, threads: int) -> None:
        try:
            import openvino
        except ImportError as error:
            raise MissingPackage("openvino", "peers") from error
        core = openvino.Core()
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._request = core.compile_model(core.read_model(path), "CPU", options)
        self._request = self._request.create_infer_request()
        version = importlib.metadata.version("openvino")
        self._info = RunnerInfo("openvino", version, f"cpu ({threads} threads)", "fp32", shape)
        self._staged: list[Uint8Array] = []

    @property
    def info(self) -> RunnerInfo:
        return self._info

    def infer(self, images: Uint8Array) -> Uint8Array:
        result: Any = self._request.infer({0: check_images(images, self._info.shape)})
        return np.array(result[0], np.uint8)

    def stage(self, batches: Sequence[Uint8Array]) -> None:
        self._staged = [images.copy() for images in batches]

    def launch(self, index: int) -> None:
        self._request.infer({0: self._staged[index]})

    def synchronize(self) -> None:
        """A run ends before ``launch`` returns."""

    def close(self) -> None:
        del self._request


def compiled_runner(module: ImageToMask, shape: Shape, threads: int) -> TorchRunner:
    """``torch.compile`` with BatchNorm folded and channels last, as PyTorch's guides advise."""
    runner = TorchRunner(_Compiled(module), shape, torch.device("cpu"), threads)  # type: ignore[arg-type]
    runner.infer(np.zeros(shape, np.uint8))  # compiles
    return runner


class _Compiled(torch.nn.Module):
    """The module frozen and compiled."""

    def __init__(self, module: ImageToMask) -> None:
        super().__init__()
        import torch._inductor.config as inductor

        inductor.freezing = True  # folds BatchNorm, and packs weights for oneDNN
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._compiled = torch.compile(module)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():  # freezing is for no_grad; inference_mode breaks some versions
            result: torch.Tensor = self._compiled(images)
        return result
