"""Runners: one artifact, loaded on one backend, behind one small protocol.

An application needs three lines, numpy, and onnxruntime or TensorRT::

    from dabnet.runtime import open_artifact
    runner = open_artifact("model.onnx")  # or model.engine
    masks = runner.infer(images)  # uint8 (N, H, W, 3) RGB → uint8 (N, H, W)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dabnet.errors import InputError
from dabnet.files import existing_file

if TYPE_CHECKING:
    from dabnet.runtime.ort.runner import OnnxRuntimeRunner
    from dabnet.runtime.trt.runner import TensorRTRunner

ENGINE_SUFFIXES = (".engine", ".plan", ".trt")
CHECKPOINT_SUFFIXES = (".pth", ".pt", ".ckpt")
_WHAT = "an ONNX file or an engine written by dabnet-export"


def open_artifact(
    path: str | Path,
    device: str | None = None,
    *,
    threads: int | None = None,
    cuda_graph: bool = False,
    allow_cpu_nodes: bool = False,
    exact_qdq: bool = False,
    runtime_cache: str | Path | None = None,
) -> OnnxRuntimeRunner | TensorRTRunner:
    """Load an artifact on the backend that its file is for.

    Args:
        path: ``.onnx`` runs on onnxruntime; an engine, with its manifest beside it, on TensorRT.
        device: ``cpu`` or ``cuda``. None is ``cpu`` for an ONNX file; an engine runs on the GPU.
        threads: CPU threads of onnxruntime; None leaves its choice.
        cuda_graph: capture each run into a CUDA graph and replay it (GPU only).
        allow_cpu_nodes: accept nodes that onnxruntime placed on the CPU although CUDA was asked
            for.
        exact_qdq: compute Q/DQ as the graph says it, not in int8 kernels (onnxruntime).
        runtime_cache: file of the kernels that TensorRT-RTX compiled, read at the load and written
            by ``close``.

    Raises:
        InputError: there is no such file, it is of another kind, or an option does not fit it.
        ArtifactError: it is damaged, or does not fit this machine.
        BackendUnavailable: the backend cannot run here.
    """
    path = existing_file(path, _WHAT)
    if path.suffix == ".onnx":
        _refuse(path, "TensorRT-RTX", {"runtime_cache": runtime_cache})
        from dabnet.runtime.ort.runner import OnnxRuntimeRunner

        return OnnxRuntimeRunner(
            path, device or "cpu", threads, cuda_graph, allow_cpu_nodes, exact_qdq=exact_qdq
        )
    if path.suffix in CHECKPOINT_SUFFIXES:
        raise InputError(
            f"{str(path)!r} is a checkpoint", _WHAT, f"export it with: dabnet-export onnx {path}"
        )
    if path.suffix not in ENGINE_SUFFIXES and not path.with_name(f"{path.name}.json").is_file():
        raise InputError(f"{str(path)!r} is neither .onnx nor an engine with its manifest", _WHAT)
    only_there: dict[str, object] = {"threads": threads, "allow_cpu_nodes": allow_cpu_nodes}
    _refuse(path, "onnxruntime", {**only_there, "exact_qdq": exact_qdq})
    if device not in (None, "cuda"):
        raise InputError(
            f"device {device!r} for the engine {str(path)!r}",
            "'cuda'",
            "on a CPU run the ONNX file that it was built from",
        )
    from dabnet.runtime.trt.runner import TensorRTRunner

    return TensorRTRunner(path, cuda_graph=cuda_graph, runtime_cache=runtime_cache)


def _refuse(path: Path, backend: str, options: dict[str, object]) -> None:
    """Raise for an option that only ``backend`` knows, rather than ignore it."""
    for name, value in options.items():
        if value:
            raise InputError(f"{name} for {str(path)!r}", f"a file that {backend} runs")
