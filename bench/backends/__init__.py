"""The backends of this project, in the order of the table; see ``docs/bench_backends.md``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.backends.null_backend import NullBackend
from bench.backends.onnxruntime_backend import OnnxRuntimeBackend
from bench.backends.openvino_backend import OpenVinoBackend
from bench.backends.pytorch_backend import PyTorchBackend
from bench.backends.tensorrt_backend import TensorRTBackend

if TYPE_CHECKING:
    from bench.backends.base import Backend

BACKENDS: tuple[Backend, ...] = (
    PyTorchBackend(),
    OnnxRuntimeBackend(),
    OpenVinoBackend(),
    TensorRTBackend("tensorrt", "tensorrt"),
    TensorRTBackend("tensorrtrtx", "tensorrt_rtx"),
    NullBackend(),
)
