"""The two artifacts of a comparison: what each declares, and how it runs on an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dabnet.artifact import DEFAULT_SIZE, ENGINE, ONNX, Artifact, open_artifact
from dabnet.data.dataset import Uint8Array
from dabnet.data.labels import Colour
from dabnet.errors import ArtifactError, InputError
from dabnet.graph.execution import computed, cpu_session, ending_at, logits_tensor
from dabnet.models import check_size, network_named
from dabnet.precision import FP16, FP32
from dabnet.runtime.manifest import DYNAMIC, Manifest
from dabnet.runtime.runner import Runner
from export.onnx_file import load_onnx

if TYPE_CHECKING:
    import torch

    from dabnet.checkpoint import Checkpoint

Logits = NDArray[np.float32]
LogitsOf = Callable[[NDArray[Any]], Logits | None]
"""An artifact's input → the coarse logits (K, h, w) behind its mask of the first image."""


@dataclass(frozen=True, slots=True)
class Declared:
    """An artifact's own description, before it is loaded.

    Attributes:
        path: the file.
        kind: ``checkpoint``, ``onnx`` or ``engine``.
        precision: such as ``fp32``; a checkpoint's is that of PyTorch.
        classes, palette: names and colours by class index.
        shape: (N, H, W) of its images, -1 for a side that each call chooses; a checkpoint takes
            any.
        size: (height, width) of its example; None for a checkpoint.
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
        """(height, width) where it takes only one."""
        return None if DYNAMIC in self.shape[1:] else (self.shape[1], self.shape[2])


def declare(path: Path, dataset: str | None = None) -> Declared:
    """Read what ``path`` is; ``dataset`` as for ``dabnet.checkpoint.load_checkpoint``.

    Raises:
        DabnetError: the file is missing, damaged or carries no manifest.
    """
    artifact = Artifact.open(path)
    kind, manifest = artifact.kind, artifact.manifest
    if manifest is None:
        from dabnet.checkpoint import load_checkpoint  # two ONNX files need no torch

        found = load_checkpoint(path, dataset)
        any_shape = (DYNAMIC, DYNAMIC, DYNAMIC)
        labels = found.labels
        return Declared(path, kind, FP32, labels.classes, labels.palette, any_shape, None, found)
    return Declared(
        path,
        kind,
        manifest.precision,
        manifest.classes,
        manifest.palette,
        manifest.input.sides,
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
            " and ".join(f"{str(x.path)!r} takes {_size(size)}" for size, x in fixed.items()),
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
        declared: its own description.
        run: uint8 (H, W, 3), RGB → mask uint8 (H, W), and coarse logits float32 (K, h, w), or None
            where the artifact keeps them to itself.
        backend: what runs it, in words.
        close: releases it.
        note: what the reader of its numbers must know.
    """

    declared: Declared
    run: Callable[[Uint8Array], tuple[Uint8Array, Logits | None]]
    backend: str
    close: Callable[[], None]
    note: str = ""

    @property
    def in_words(self) -> dict[str, str]:
        """For a record: its file, kind, precision, backend and note."""
        declared = self.declared
        return {
            "file": str(declared.path),
            "kind": declared.kind,
            "precision": declared.precision,
            "backend": self.backend,
            "note": self.note,
        }


def open_any(declared: Declared, size: tuple[int, int]) -> Compared:
    """Load an artifact for images of (height, width): PyTorch and onnxruntime on the CPU.

    Raises:
        DabnetError: it cannot be loaded, or this machine lacks its backend.
    """
    batch = max(1, declared.shape[0])
    runner: Runner
    if not isinstance(declared.content, Manifest):
        runner, logits_of = _checkpoint(declared.content, (batch, *size, 3))
    else:
        # Artifacts are compared, not this CPU's int8 kernels.
        runner = open_artifact(declared.path, exact_qdq=declared.kind == ONNX)
        logits_of = _no_logits if declared.kind == ENGINE else _logits_of_onnx(declared)

    def run(image: Uint8Array) -> tuple[Uint8Array, Logits | None]:
        images = given(declared, image)
        found = runner.infer(images)[0]  # a mask (H, W), or logits (K, H, W)
        mask = (found.argmax(axis=0) if found.ndim == 3 else found).astype(np.uint8, copy=False)
        if int(mask.max()) >= len(declared.classes):
            raise ArtifactError(
                f"{str(declared.path)!r} predicts class {int(mask.max())}",
                f"0 to {len(declared.classes) - 1}, the classes it names",
                "export it again",
            )
        return mask, logits_of(images)

    note = ""
    if (declared.kind, declared.precision) == (ONNX, FP16):
        note = "this CPU computes FP16 in FP32 between nodes: on a GPU more pixels may differ"
    info = runner.info
    backend = f"{info.backend} {info.version}, {info.device}"
    return Compared(declared, run, backend, runner.close, note)


def given(declared: Declared, image: Uint8Array) -> NDArray[Any]:
    """One image uint8 (H, W, 3), RGB, as the artifact takes it, repeated to fill its batch.

    Returns:
        uint8 (N, H, W, 3), or preprocessed float32 (N, 3, H, W) for an artifact with float input.
    """
    images = np.repeat(image[None], max(1, declared.shape[0]), axis=0)
    manifest = declared.content
    if not isinstance(manifest, Manifest) or manifest.input.dtype == "uint8":
        return images
    preprocessing = manifest.preprocessing
    mean, scale = np.array([preprocessing.mean_rgb, preprocessing.scale], np.float32)
    return np.ascontiguousarray(((images - mean) * scale).transpose(0, 3, 1, 2))


def _checkpoint(
    checkpoint: Checkpoint, shape: tuple[int, int, int, int]
) -> tuple[Runner, LogitsOf]:
    import torch

    from dabnet.models.image_to_mask import ImageToMask
    from dabnet.runtime.torch_runner import TorchRunner

    network = checkpoint.network()
    kept: list[Logits] = []

    def keep(module: torch.nn.Module, inputs: Any, logits: torch.Tensor) -> None:
        kept[:] = [logits[0].numpy()]

    # The very logits of the mask, without a second run.
    network.get_submodule(network_named(checkpoint.model).logits).register_forward_hook(keep)
    module = ImageToMask(network, checkpoint.preprocessing)
    return TorchRunner(module, shape, torch.device("cpu")), lambda _: kept[0]


def _logits_of_onnx(declared: Declared) -> LogitsOf:
    """A second session: the mask stays that of the file as it is, whatever a new output changes."""
    assert isinstance(declared.content, Manifest)
    tensor = declared.content.input.name
    model = ir.from_proto(load_onnx(declared.path))
    name = declared.content.logits or logits_tensor(model)
    if name not in set(computed(model)):
        return _no_logits
    session = cpu_session(ending_at(model, [name]), repr(str(declared.path)), optimised=True)

    def logits_of(images: NDArray[Any]) -> Logits:
        (logits,) = session.run(None, {tensor: images})
        return np.asarray(logits[0], np.float32)

    return logits_of


def _no_logits(_: NDArray[Any]) -> None:
    return None


def _classes(declared: Declared) -> str:
    names = declared.classes
    return f"{len(names)} classes ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"


def _size(size: tuple[int, int] | None) -> str:
    return f"{size[0]}x{size[1]}" if size else "any size"
