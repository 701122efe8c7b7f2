"""A checkpoint, loaded to be run by PyTorch; ``dabnet.runtime`` opens the other artifacts.

Which kind of artifact a file is; nothing is loaded to tell.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dabnet.files import existing_file
from dabnet.runtime import ENGINE_SUFFIXES
from dabnet.runtime.manifest import engine_manifest_path

if TYPE_CHECKING:
    from dabnet.runtime.torch_runner import TorchRunner


def open_checkpoint(
    checkpoint: Path,
    dataset: str | None,
    shape: tuple[int, int, int, int],
    device: str = "cpu",
    threads: int | None = None,
    mode: str = "eager",
) -> TorchRunner:
    """Load a checkpoint behind the contract: uint8 images in, masks out.

    Args:
        checkpoint: ours, or a public one.
        dataset: needed by a checkpoint that does not carry classes and preprocessing.
        shape: (N, H, W, 3) of the images.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads; None leaves PyTorch's choice.
        mode: one of ``dabnet.runtime.torch_runner.MODES``.

    Raises:
        DabnetError: the checkpoint does not load.
        BackendUnavailable: there is no GPU, or the mode cannot run here.
    """
    import torch

    from dabnet.checkpoint import load_checkpoint
    from dabnet.errors import BackendUnavailable
    from dabnet.models.image_to_mask import ImageToMask
    from dabnet.runtime.torch_runner import TorchRunner

    if device == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable("PyTorch sees no NVIDIA GPU", fix="check nvidia-smi")
    loaded = load_checkpoint(checkpoint, dataset)
    module = ImageToMask(loaded.network(), loaded.preprocessing)
    return TorchRunner(module, shape, torch.device(device), threads, mode)


CHECKPOINT, ONNX, ENGINE = "checkpoint", "onnx", "engine"

DEFAULT_SIZE = (512, 1024)
"""(height, width) for a checkpoint, which takes any."""


def kind_of(path: Path) -> str:
    """``onnx`` by suffix, ``engine`` by suffix or by the manifest beside it, else ``checkpoint``.

    Raises:
        InputError: there is no such file, or it is empty.
    """
    existing_file(path, "a checkpoint, an ONNX file or an engine")
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return ONNX
    if suffix in ENGINE_SUFFIXES or engine_manifest_path(path).is_file():
        return ENGINE
    return CHECKPOINT
