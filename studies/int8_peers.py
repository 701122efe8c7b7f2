"""INT8 graphs of other tools, with their defaults.

Each tool runs in a process of its own: some change onnx and onnxruntime for whoever imports them,
and some keep every activation of every image in memory.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.isolation import Isolated
from dabnet.errors import MissingPackage

Quantise = Callable[[str, Any, str], None]
"""(FP32 file, images uint8 (N, H, W, 3), file to write) → the file is written."""


class Reader:
    """Feeds a tool of onnxruntime: has the method of its ``CalibrationDataReader``."""

    def __init__(self, feeds: Iterator[dict[str, Any]]) -> None:
        self._feeds = feeds

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def quantize_static(model: str, images: Any, output: str) -> None:
    """https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html"""
    tool = importlib.import_module("onnxruntime.quantization")
    tool.quantize_static(model, output, Reader({"image": image[None]} for image in images))


def preprocessed_quantize_static(model: str, images: Any, output: str) -> None:
    """The same after ``quant_pre_process``, as its page recommends."""
    prepared = str(Path(output).with_suffix(".prepared.onnx"))
    shapes = importlib.import_module("onnxruntime.quantization.shape_inference")
    shapes.quant_pre_process(model, prepared)
    quantize_static(prepared, images, output)


def nncf_quantize(model: str, images: Any, output: str) -> None:
    """https://github.com/openvinotoolkit/nncf: ``nncf.quantize`` of an ONNX model."""
    onnx, nncf = importlib.import_module("onnx"), importlib.import_module("nncf")
    dataset = nncf.Dataset(range(len(images)), lambda index: {"image": images[index][None]})
    onnx.save(nncf.quantize(onnx.load(model), dataset), output)


def modelopt_quantize(model: str, images: Any, output: str) -> None:
    """https://nvidia.github.io/Model-Optimizer: ``modelopt.onnx.quantization.quantize``.

    On the CPU, since it would look for CUDA and TensorRT first. All else is its default: entropy
    ranges, and FP16 where there is no int8.
    """
    tool = importlib.import_module("modelopt.onnx.quantization")
    data = {"image": np.asarray(images)}
    tool.quantize(model, "int8", calibration_data=data, calibration_eps=["cpu"], output_path=output)


PEERS: dict[str, tuple[str, Quantise]] = {
    "onnxruntime quantize_static": ("onnxruntime", quantize_static),
    "onnxruntime, preprocessed": ("onnxruntime", preprocessed_quantize_static),
    "nncf": ("nncf", nncf_quantize),
    "nvidia-modelopt": ("nvidia-modelopt", modelopt_quantize),
}
"""Row → its package, and what is called."""


class Tool:
    """The service of a row, one of ``PEERS``."""

    def __init__(self, row: str) -> None:
        self._package, self._quantise = PEERS[row]

    def write(self, model: str, images: str, output: str) -> str:
        """Write ``output``, and return the package and its version."""
        try:
            version = importlib.metadata.version(self._package)
            self._quantise(model, np.load(images, mmap_mode="r"), output)
        except ImportError as error:  # also of what the package needs and leaves to an extra
            raise MissingPackage(self._package, "peers") from error
        return f"{self._package} {version}"


def quantised_by(row: str, model: Path, images: Path, output: Path) -> str:
    """Let the tool of a row write ``output``, and return its package and version.

    Args:
        row: one of ``PEERS``.
        model: FP32 ONNX with the input ``image``, uint8 (1, H, W, 3).
        images: npy file, uint8 (N, H, W, 3).

    Raises:
        ProcessFailed: it failed, or something that it needs is not installed.
    """
    with Isolated(row, Tool, (row,), output.with_suffix(".log")) as tool:
        return str(tool.call("write", str(model), str(images), str(output)))
