"""INT8 graphs of other tools, with their defaults.

Each tool runs in a process of its own: some change onnx and onnxruntime for whoever imports them,
and some keep every activation of every image in memory. That process is this file, run as

    python studies/int8_peers.py nncf fp32.onnx images.npy int8.onnx
"""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dabnet.errors import BuildError, MissingPackage

NOT_INSTALLED = 3

Quantise = Callable[[str, Any, str], None]
"""(FP32 file, images uint8 (N, H, W, 3), file to write) → the file is written."""


def quantize_static(model: str, images: Any, output: str) -> None:
    """https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html"""
    tool = importlib.import_module("onnxruntime.quantization")
    tool.quantize_static(model, output, _reader(tool, images))


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


def quantised_by(name: str, model: Path, images: Path, output: Path) -> str:
    """Let the tool of row ``name`` write ``output``, and return its package and version.

    Args:
        model: FP32 ONNX with the input ``image``, uint8 (1, H, W, 3).
        images: npy file, uint8 (N, H, W, 3).

    Raises:
        MissingPackage: the tool, or what it needs, is not installed.
        BuildError: it failed; the message is its last line.
    """
    package, _ = PEERS[name]
    words = [name, str(model), str(images), str(output)]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
    if done.returncode == NOT_INSTALLED:
        raise MissingPackage(package, "peers")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise BuildError(f"it failed ({lines[-1][:200]})")
    return f"{package} {importlib.metadata.version(package)}"


def main(name: str, model: str, images: str, output: str) -> int:
    """The process of one tool."""
    package, quantise = PEERS[name]
    try:
        importlib.metadata.version(package)
        quantise(model, np.load(images, mmap_mode="r"), output)
    except ImportError as error:  # also of what the package needs and leaves to an extra
        print(error, file=sys.stderr)
        return NOT_INSTALLED
    return 0


def _reader(tool: Any, images: Any) -> Any:
    class Reader(tool.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self._left, None)
            return None if image is None else {"image": image[None]}

    return Reader()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
