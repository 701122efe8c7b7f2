"""The two artifacts of a comparison: what each says of itself, and how it is run on an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dabnet.artifact import CHECKPOINT, DEFAULT_SIZE, ENGINE, ONNX, kind_of
from dabnet.data.dataset import Uint8Array
from dabnet.data.labels import Colour
from dabnet.errors import ArtifactError, InputError
from dabnet.models import check_size
from dabnet.runtime import open_artifact
from dabnet.runtime.manifest import DYNAMIC, Manifest
from dabnet.runtime.runner import Runner
from dabnet.runtime.trt.check import read_engine_manifest
from export.graph.tensors import computed, cpu_session, ending_at, logits_tensor
from export.onnx_file import load_onnx, manifest_of

if TYPE_CHECKING:
    import torch

    from dabnet.checkpoint import Checkpoint

Logits = NDArray[np.float32]
LogitsOf = Callable[[NDArray[Any]], Logits | None]
"""What the artifact takes → coarse logits (K, H/8, W/8) of the first image, behind its mask."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What an artifact says of itself before it is loaded.

    Attributes:
        path: the file.
        kind: ``checkpoint``, ``onnx`` or ``engine``.
        precision: such as ``fp32``; a checkpoint's is that of PyTorch.
        classes, palette: names and colours by class index.
        shape: (N, H, W) of its images, -1 for a side that each call chooses; a checkpoint takes
            any.
        size: (height, width) of its example; of a checkpoint None.
        content: its manifest, or the checkpoint itself.
    """

    path: Path
    kind: str
    precision: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    shape: tuple[int, int, int]
    size: tuple[int, int] | None
    content: Manifest | Checkpoint

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """(height, width) where only one is taken."""
        return None if DYNAMIC in self.shape[1:] else (self.shape[1], self.shape[2])


def declare(path: Path, dataset: str | None = None) -> Declared:
    """Read what ``path`` is; ``dataset`` as for ``dabnet.checkpoint.load_checkpoint``.

    Raises:
        DabnetError: the file is missing, damaged or carries no manifest.
    """
    kind = kind_of(path)
    if kind == CHECKPOINT:
        from dabnet.checkpoint import load_checkpoint  # two ONNX files need no torch

        checkpoint = load_checkpoint(path, dataset)
        labels = checkpoint.labels
        anything = (DYNAMIC, DYNAMIC, DYNAMIC)
        return Declared(
            path, kind, "fp32", labels.classes, labels.palette, anything, None, checkpoint
        )
    if kind == ONNX:
        manifest = manifest_of(load_onnx(path), str(path))
    else:
        manifest, _ = read_engine_manifest(path)
    channels_last = manifest.input.dtype == "uint8"
    n, height, width = (
        manifest.input.shape[axis] for axis in ((0, 1, 2) if channels_last else (0, 2, 3))
    )
    return Declared(
        path,
        kind,
        manifest.precision,
        manifest.classes,
        manifest.palette,
        (n, height, width),
        manifest.size,
        manifest,
    )


def common_size(a: Declared, b: Declared, wanted: tuple[int, int] | None) -> tuple[int, int]:
    """The (height, width) at which both run, after a check that they can be compared at all.

    ``wanted``, else the size that one of them has fixed, else the example of B, else of A.

    Raises:
        InputError: they predict other classes, or do not take one size.
    """
    if a.classes != b.classes:
        raise InputError(
            f"{str(a.path)!r} predicts {_classes(a)} and {str(b.path)!r} {_classes(b)}",
            "the same classes in the same order",
            "compare artifacts of one data set",
        )
    fixed = {artifact.fixed_size: artifact for artifact in (a, b) if artifact.fixed_size}
    if len(fixed) > 1:
        raise InputError(
            " and ".join(f"{str(x.path)!r} takes {_size(x.fixed_size)}" for x in (a, b)),
            "artifacts of one size",
            "export both with the same --size",
        )
    for size, artifact in fixed.items():
        if wanted not in (None, size):
            raise InputError(
                f"--size {_size(wanted)}, but {str(artifact.path)!r} takes {_size(size)} only",
                fix="leave --size out, or export at that size",
            )
        wanted = size
    size = wanted or b.size or a.size or DEFAULT_SIZE
    check_size(*size)
    return size


@dataclass(frozen=True, slots=True)
class Compared:
    """An artifact that is ready to run, one image at a time.

    Attributes:
        declared: what it says of itself.
        run: uint8 (H, W, 3), RGB → mask uint8 (H, W), and coarse logits float32 (K, H/8, W/8) or
            None where the artifact keeps them to itself.
        backend: what runs it, in words.
        close: releases it.
        note: what the reader of its numbers must know.
    """

    declared: Declared
    run: Callable[[Uint8Array], tuple[Uint8Array, Logits | None]]
    backend: str
    close: Callable[[], None]
    note: str = ""


def open_any(declared: Declared, size: tuple[int, int]) -> Compared:
    """Load an artifact for images of (height, width): PyTorch and onnxruntime on the CPU.

    Raises:
        DabnetError: it cannot be loaded, or its backend is missing on this machine.
    """
    batch = max(1, declared.shape[0])
    if declared.kind == CHECKPOINT:
        runner, logits_of = _checkpoint(declared.content, (batch, *size, 3))
    else:
        # Artifacts are compared, not this CPU's int8 kernels.
        runner = open_artifact(declared.path, exact_qdq=declared.kind == ONNX)
        logits_of = _no_logits if declared.kind == ENGINE else _logits_of_onnx(declared)

    def run(image: Uint8Array) -> tuple[Uint8Array, Logits | None]:
        images = given(declared, image)
        mask = _mask(runner.infer(images)[0])
        if int(mask.max()) >= len(declared.classes):
            raise ArtifactError(
                f"{str(declared.path)!r} predicts class {int(mask.max())}",
                f"0 to {len(declared.classes) - 1}, the classes it names",
                "export it again",
            )
        return mask, logits_of(images)

    note = ""
    if (declared.kind, declared.precision) == (ONNX, "fp16"):
        note = "FP16 is computed in FP32 between nodes on this CPU: on a GPU more may differ"
    info = runner.info
    return Compared(
        declared, run, f"{info.backend} {info.version}, {info.device}", runner.close, note
    )


def given(declared: Declared, image: Uint8Array) -> NDArray[Any]:
    """One image uint8 (H, W, 3), RGB, as the artifact takes it, repeated to fill its batch.

    Returns:
        uint8 (N, H, W, 3), or preprocessed float32 (N, 3, H, W) for an artifact with float input.
    """
    images = np.repeat(image[None], max(1, declared.shape[0]), axis=0)
    manifest = declared.content
    if not isinstance(manifest, Manifest) or manifest.input.dtype == "uint8":
        return images
    mean, scale = (
        np.array(values, np.float32).reshape(1, 3, 1, 1)
        for values in (manifest.preprocessing.mean_rgb, manifest.preprocessing.scale)
    )
    planes = images.astype(np.float32).transpose(0, 3, 1, 2)
    return np.ascontiguousarray((planes - mean) * scale)


def _mask(result: NDArray[Any]) -> Uint8Array:
    """Mask (H, W) of an artifact's output: the mask itself, or logits (K, H, W)."""
    return (result.argmax(axis=0) if result.ndim == 3 else result).astype(np.uint8, copy=False)


def _checkpoint(checkpoint: Any, shape: tuple[int, int, int, int]) -> tuple[Runner, LogitsOf]:
    import torch

    from dabnet.models.image_to_mask import ImageToMask
    from dabnet.runtime.torch_runner import TorchRunner

    network: Any = checkpoint.network()
    kept: list[Logits] = []
    if coarse_logits := getattr(network, "coarse_logits", None):

        def keep(image: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = coarse_logits(image)
            kept[:] = [logits[0].numpy()]
            return logits

        network.coarse_logits = keep  # the very logits of the mask, without a second run
    module = ImageToMask(network, checkpoint.preprocessing)
    runner = TorchRunner(module, shape, torch.device("cpu"))
    return runner, lambda images: kept[0] if kept else None


def _logits_of_onnx(declared: Declared) -> LogitsOf:
    """A second session: the mask stays that of the file as it is, whatever a new output changes."""
    model = load_onnx(declared.path)
    manifest = manifest_of(model, str(declared.path))
    name = manifest.logits or logits_tensor(model)
    if name not in set(computed(model)):
        return _no_logits
    session = cpu_session(ending_at(model, [name]), repr(str(declared.path)), optimised=True)

    def logits_of(images: NDArray[Any]) -> Logits:
        (logits,) = session.run(None, {manifest.input.name: images})
        return np.asarray(logits[0], np.float32)

    return logits_of


def _no_logits(images: NDArray[Any]) -> None:
    return None


def _classes(declared: Declared) -> str:
    names = declared.classes
    return f"{len(names)} classes ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"


def _size(size: tuple[int, int] | None) -> str:
    return f"{size[0]}x{size[1]}" if size else "any size"
