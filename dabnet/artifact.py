"""Artifacts: what a file is, what it says of itself, and what runs it.

An application needs three lines, numpy, and onnxruntime or TensorRT::

    from dabnet.artifact import open_artifact
    runner = open_artifact("model.onnx")  # or model.engine
    masks = runner.infer(images)  # uint8 (N, H, W, 3) RGB → uint8 (N, H, W)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from dabnet.errors import ArtifactError, BackendUnavailable, InputError
from dabnet.files import existing_file
from dabnet.runtime.manifest import (
    Manifest,
    carried_manifest,
    engine_manifest_path,
    read_engine_manifest,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from dabnet.runtime.ort.runner import OnnxRuntimeRunner
    from dabnet.runtime.torch_runner import TorchRunner
    from dabnet.runtime.trt.runner import TensorRTRunner

CHECKPOINT, ONNX, ENGINE = "checkpoint", "onnx", "engine"
ENGINE_SUFFIXES = (".engine", ".plan", ".trt")

DEFAULT_SIZE = (512, 1024)
"""(height, width) for a checkpoint, which takes any."""


class RunOptions(TypedDict, total=False):
    """How an artifact is run. One that does not fit the kind of artifact is refused.

    Attributes:
        threads: CPU threads of onnxruntime; None leaves its choice.
        cuda_graph: capture each run into a CUDA graph and replay it (GPU only).
        allow_cpu_nodes: accept nodes that onnxruntime placed on the CPU although CUDA was asked
            for.
        exact_qdq: compute Q/DQ as the graph says it, not in int8 kernels (onnxruntime).
        runtime_cache: file of the kernels that TensorRT-RTX compiled, read at the load and written
            by ``close``.
    """

    threads: int | None
    cuda_graph: bool
    allow_cpu_nodes: bool
    exact_qdq: bool
    runtime_cache: str | Path | None


_OPTIONS = {
    ONNX: ("threads", "cuda_graph", "allow_cpu_nodes", "exact_qdq"),
    ENGINE: ("cuda_graph", "runtime_cache"),
}


def open_artifact(
    path: str | Path, device: str | None = None, **options: Unpack[RunOptions]
) -> OnnxRuntimeRunner | TensorRTRunner:
    """Load an artifact on the backend that its file is for.

    Args:
        path: ``.onnx`` runs on onnxruntime; an engine, with its manifest beside it, on TensorRT.
        device: ``cpu`` or ``cuda``. None is ``cpu`` for an ONNX file; an engine runs on the GPU.
        options: see ``RunOptions``.

    Raises:
        InputError: there is no such file, it is of another kind, or an option does not fit it.
        ArtifactError: it is damaged, or does not fit this machine.
        BackendUnavailable: the backend cannot run here.
    """
    return Artifact.open(path).runner(device, **options)


@dataclass(frozen=True)
class Artifact:
    """A file, known by its name and what lies beside it; nothing is loaded to tell.

    Attributes:
        kind: ``ONNX`` by suffix, ``ENGINE`` by suffix or by the manifest beside it, else
            ``CHECKPOINT``.
    """

    path: Path
    kind: str

    @classmethod
    def open(cls, path: str | Path) -> Artifact:
        """Say what ``path`` is.

        Raises:
            InputError: there is no such file, or it is empty.
        """
        path = existing_file(path, "a checkpoint, an ONNX file or an engine")
        suffix = path.suffix.lower()
        if suffix == ".onnx":
            return cls(path, ONNX)
        is_engine = suffix in ENGINE_SUFFIXES or engine_manifest_path(path).is_file()
        return cls(path, ENGINE if is_engine else CHECKPOINT)

    @cached_property
    def manifest(self) -> Manifest | None:
        """Of an ONNX file (read by the package onnx) or an engine; None of a checkpoint.

        Raises:
            ArtifactError: the file is damaged, or has no valid manifest.
        """
        if self.kind == CHECKPOINT:
            return None
        if self.kind == ENGINE:
            return read_engine_manifest(self.path)[0]
        import onnx
        from google.protobuf.message import DecodeError

        try:
            model = onnx.load(self.path, load_external_data=False)
        except (DecodeError, ValueError, OSError) as error:
            raise ArtifactError(
                f"{str(self.path)!r} cannot be read as ONNX", "a file written by dabnet-export"
            ) from error
        properties = {entry.key: entry.value for entry in model.metadata_props}
        return carried_manifest(properties, repr(str(self.path)))

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of its example, in pixels; None of a checkpoint, which takes any."""
        return self.manifest.size if self.manifest else None

    def runner(
        self, device: str | None = None, **options: Unpack[RunOptions]
    ) -> OnnxRuntimeRunner | TensorRTRunner:
        """Load it, as ``open_artifact`` does; PyTorch runs a checkpoint by ``open_checkpoint``."""
        name = repr(str(self.path))
        if self.kind == CHECKPOINT:
            raise InputError(
                f"{name} is neither an ONNX file nor an engine with its manifest",
                "an ONNX file or an engine written by dabnet-export",
                f"export a checkpoint with: dabnet-export onnx {self.path}",
            )
        given: dict[str, Any] = {option: value for option, value in options.items() if value}
        for option in given:
            if option not in _OPTIONS[self.kind]:
                raise InputError(f"{option} for {name}", ", ".join(_OPTIONS[self.kind]))
        if self.kind == ONNX:
            from dabnet.runtime.ort.runner import OnnxRuntimeRunner

            return OnnxRuntimeRunner(self.path, device or "cpu", **given)
        if device not in (None, "cuda"):
            fix = "on a CPU run the ONNX file that it was built from"
            raise InputError(f"device {device!r} for the engine {name}", "'cuda'", fix)
        from dabnet.runtime.trt.runner import TensorRTRunner

        return TensorRTRunner(self.path, **given)


def open_checkpoint(
    checkpoint: Path,
    dataset: str | None,
    shape: tuple[int, int, int, int],
    device: str = "cpu",
    threads: int | None = None,
    mode: str = "eager",
) -> TorchRunner:
    """Load a checkpoint, run by PyTorch behind the contract: uint8 images in, masks out.

    Args:
        dataset: needed by a checkpoint that does not carry classes and preprocessing.
        shape: (N, H, W, 3) of the images.
        threads: CPU threads; None leaves PyTorch's choice.
        mode: one of ``dabnet.runtime.torch_runner.MODES``.

    Raises:
        DabnetError: the checkpoint does not load.
        BackendUnavailable: there is no GPU, or the mode cannot run here.
    """
    import torch

    from dabnet.checkpoint import load_checkpoint
    from dabnet.models.image_to_mask import ImageToMask
    from dabnet.runtime.torch_runner import TorchRunner

    if device == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable("PyTorch sees no NVIDIA GPU", fix="check nvidia-smi")
    loaded = load_checkpoint(checkpoint, dataset)
    module = ImageToMask(loaded.network(), loaded.preprocessing)
    return TorchRunner(module, shape, torch.device(device), threads, mode)
