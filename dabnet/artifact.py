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
from dabnet.file_kind import CHECKPOINT, ENGINE, ONNX, UNKNOWN, kind_of, refuse_other
from dabnet.runtime import manifest as manifests

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from dabnet.runtime.ort.runner import OnnxRuntimeRunner
    from dabnet.runtime.torch_runner import TorchRunner
    from dabnet.runtime.trt.runner import TensorRTRunner

__all__ = [
    "CHECKPOINT",
    "DEFAULT_SIZE",
    "ENGINE",
    "ONNX",
    "Artifact",
    "open_artifact",
    "open_checkpoint",
]

DEFAULT_SIZE = (512, 1024)  # (height, width) for a checkpoint, which takes any


class RunOptions(TypedDict, total=False):
    """How an artifact is run: see ``OnnxRuntimeRunner`` and ``TensorRTRunner``."""

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
    """Load an artifact: ``.onnx`` on onnxruntime, an engine with its manifest on TensorRT.

    ``device`` is ``cpu`` or ``cuda``; None is ``cpu`` for ONNX. An engine runs on the GPU.

    Raises:
        InputError: there is no such file, it is of another kind, or an option does not fit it.
        ArtifactError: it is damaged, or does not fit this machine.
        BackendUnavailable: the backend cannot run here.
    """
    return Artifact.open(path).runner(device, **options)


@dataclass(frozen=True)
class Artifact:
    """A file; ``kind`` is known by its suffix, or the manifest of an engine that lies beside it."""

    path: Path
    kind: str

    @classmethod
    def open(cls, path: str | Path) -> Artifact:
        """Tell what ``path`` is; InputError if it is a file of another kind, empty or missing."""
        path = Path(path)
        expected = "a checkpoint, an ONNX file or an engine"
        refuse_other(path, CHECKPOINT, ONNX, ENGINE, expected=expected)
        kind = kind_of(path)
        return cls(path, CHECKPOINT if kind == UNKNOWN else kind)

    @cached_property
    def manifest(self) -> manifests.Manifest | None:
        """Of an ONNX file or an engine, None of a checkpoint; ArtifactError if it is damaged."""
        if self.kind == CHECKPOINT:
            return None
        if self.kind == ENGINE:
            return manifests.read_engine_manifest(self.path)[0]
        import onnx
        from google.protobuf.message import DecodeError

        try:
            model = onnx.load(self.path, load_external_data=False)
        except (DecodeError, ValueError, OSError) as error:
            given = f"{str(self.path)!r} cannot be read as ONNX"
            raise ArtifactError(given, "a file written by dabnet-export") from error
        properties = {entry.key: entry.value for entry in model.metadata_props}
        return manifests.carried_manifest(properties, repr(str(self.path)))

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read of it: the file, and the manifest beside an engine."""
        engine = self.kind == ENGINE
        return (self.path, *([manifests.engine_manifest_path(self.path)] if engine else ()))

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
            given = f"{name} is neither an ONNX file nor an engine with its manifest"
            fix = f"export a checkpoint with: dabnet-export onnx {self.path}"
            raise InputError(given, "an artifact written by dabnet-export", fix)
        asked: dict[str, Any] = {option: value for option, value in options.items() if value}
        if foreign := [option for option in asked if option not in _OPTIONS[self.kind]]:
            raise InputError(f"{foreign[0]} for {name}", ", ".join(_OPTIONS[self.kind]))
        if self.kind == ONNX:
            from dabnet.runtime.ort.runner import OnnxRuntimeRunner

            return OnnxRuntimeRunner(self.path, device or "cpu", **asked)
        if device not in (None, "cuda"):
            fix = "on a CPU run the ONNX file that it was built from"
            raise InputError(f"device {device!r} for the engine {name}", "'cuda'", fix)
        from dabnet.runtime.trt.runner import TensorRTRunner

        return TensorRTRunner(self.path, **asked)


def open_checkpoint(
    checkpoint: Path,
    dataset: str | None,
    shape: tuple[int, int, int, int],
    device: str = "cpu",
    threads: int | None = None,
    mode: str = "eager",
) -> TorchRunner:
    """Load a checkpoint for PyTorch, as ``TorchRunner`` explains; DabnetError if that fails.

    ``dataset`` is needed by a checkpoint that does not carry classes and preprocessing.
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
