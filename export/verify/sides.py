"""The two artifacts of a comparison: what each declares, and how it runs on an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dabnet.artifact import DEFAULT_SIZE, ONNX, Artifact, Description, as_input, mask_of
from dabnet.data.dataset import Uint8Array
from dabnet.device import CPU, Device, torch_device
from dabnet.errors import InputError
from dabnet.given import Given
from dabnet.graph.execution import computed, cpu_session, ending_at, logits_tensor
from dabnet.head import MASK, MASK_AND_CONFIDENCE
from dabnet.models import check_size, network_named
from dabnet.precision import FP16, FP32
from dabnet.runtime.manifest import DYNAMIC, ChangedSince
from export.onnx_file import load_onnx

if TYPE_CHECKING:
    import torch

    from dabnet.runtime.ort.runner import OnnxRuntimeRunner
    from dabnet.runtime.torch_runner import TorchRunner
    from dabnet.runtime.trt.runner import TensorRTRunner

Logits = NDArray[np.float32]


class Results(NamedTuple):
    """What a side gives for one image."""

    mask: Uint8Array  # (H, W)
    logits: Logits | None  # before the upsample, (K, h, w); None where it keeps them to itself
    confidence: Uint8Array | None  # (H, W); None where it was not asked for


class Side:
    """One artifact: its own description, and after ``load`` what it gives for images.

    Args:
        given: what the checkpoint of another trainer does not say; ours carry it.
        description: of an ONNX file or an engine that carries no manifest.
        device: where it runs; None runs an engine on the first GPU and all else on the CPU.
        trust: whether an engine is loaded also without a manifest that has its hash.

    Attributes:
        shape: (N, H, W) of its images, -1 for a side that each call chooses.
        size: (height, width) of its example; None for a checkpoint.
        is_described: whether it is what was given, and not what the file itself says.

    Raises:
        DabnetError: the file is missing or damaged, or nothing says what its classes are.
    """

    def __init__(
        self,
        path: Path,
        given: Given | None = None,
        description: Description | None = None,
        device: str | None = None,
        trust: bool = False,
    ) -> None:
        artifact = Artifact.open(path, description, device, trust)
        self._is_changed = False
        self.path, self.kind, self._device = path, artifact.kind, device or CPU
        try:
            self.manifest = artifact.manifest
        except ChangedSince as changed:
            # Its classes and images are still those of its manifest: a comparison shows the rest.
            said = Description.of(changed.manifest)
            artifact = replace(artifact, description=said)
            self.manifest, self._is_changed = artifact.manifest, True
        self.size = artifact.size
        self._artifact = artifact
        self._logits_of: Callable[[NDArray[Any]], Logits | None] = lambda _: None
        if self.manifest is not None:
            self.precision = self.manifest.precision
            self.classes, self.palette = self.manifest.classes, self.manifest.palette
            self.shape, self.stride = self.manifest.input.sides, self.manifest.stride
            self.is_described = self.manifest.is_described
            return
        from dabnet.checkpoint import carries_its_own, load_checkpoint  # ONNX needs no torch

        given = given or Given()
        self.is_described = not carries_its_own(path)
        known = given if self.is_described else Given(given.dataset)
        self._checkpoint = load_checkpoint(path, known)
        self.precision, self.shape = FP32, (DYNAMIC, DYNAMIC, DYNAMIC)
        self.classes = self._checkpoint.labels.classes
        self.palette = self._checkpoint.labels.palette
        self.stride = network_named(self._checkpoint.model).stride

    @property
    def has_confidence(self) -> bool:
        """Whether its head is ``mask+confidence``."""
        return self.manifest is not None and self.manifest.head == MASK_AND_CONFIDENCE

    @property
    def can_give_confidence(self) -> bool:
        """Whether ``load`` may ask for it: PyTorch computes it from any checkpoint."""
        return self.manifest is None or self.has_confidence

    def load(self, size: tuple[int, int], confidence: bool = False) -> None:
        """Prepare it for images of (height, width), and to give the confidence."""
        self._asked = confidence
        if self.manifest is None:
            self._runner: OnnxRuntimeRunner | TensorRTRunner | TorchRunner
            self._runner = self._torch_runner((1, *size, 3))
            return
        # Artifacts are compared, not this CPU's int8 kernels.
        self._runner = self._artifact.runner(exact_qdq=self.kind == ONNX)
        if self.kind != ONNX or self._on_gpu:
            return
        # In a second session: the mask stays that of the file, whatever a new output changes. It
        # runs on the CPU, so its logits are not those of a mask from a GPU.
        model, tensor = load_onnx(self.path), self.manifest.input.name
        name = self.manifest.logits or logits_tensor(model)
        if name in set(computed(model)):
            session = cpu_session(ending_at(model, [name]), repr(str(self.path)))
            self._logits_of = lambda images: session.run(None, {tensor: images})[0][0].astype(
                np.float32
            )

    def run(self, image: Uint8Array) -> Results:
        """Return what it gives for an image uint8 (H, W, 3), RGB.

        ArtifactError: the mask holds a class that the artifact does not name.
        """
        images, confidence = self.given(image), None
        if self._asked:
            found, (confidence, *_) = self._runner.infer_with_confidence(images)
        else:
            found = self._runner.infer(images)
        mask = mask_of(found[:1], len(self.classes), repr(str(self.path)))[0]
        return Results(mask, self._logits_of(images), confidence)

    def given(self, image: Uint8Array) -> NDArray[Any]:
        """One image uint8 (H, W, 3), RGB, as the artifact takes it, repeated to fill its batch.

        uint8 (N, H, W, 3), or preprocessed float32 (N, 3, H, W) where its input is float.
        """
        images = np.repeat(image[None], max(1, self.shape[0]), axis=0)
        return images if self.manifest is None else as_input(self.manifest, images)

    def record(self) -> dict[str, str]:
        info, notes = self._runner.info, []
        if (self.kind, self.precision) == (ONNX, FP16) and not self._on_gpu:
            half = "this CPU computes FP16 in FP32 between nodes: on a GPU more pixels may differ"
            notes.append(half)
        if self._is_changed:
            notes.append("changed after its export by another tool: its precision is the graph's")
        elif self.manifest is not None and self.manifest.is_described:
            notes.append("carries no manifest: its classes are those that were given")
        return {
            "file": str(self.path),
            "kind": self.kind,
            "precision": self.precision,
            "backend": f"{info.backend} {info.version}, {info.device}",
            "note": "; ".join(notes),
        }

    def close(self) -> None:
        self._runner.close()

    def _torch_runner(self, shape: tuple[int, int, int, int]) -> TorchRunner:
        from dabnet.models.image_to_mask import ImageToMask
        from dabnet.runtime.torch_runner import TorchRunner

        network = self._checkpoint.network()
        kept: list[Logits] = []

        def keep(module: torch.nn.Module, inputs: Any, logits: torch.Tensor) -> None:
            kept[:] = [logits[0].cpu().numpy()]

        # The very logits of the mask, without a second run.
        logits = network_named(self._checkpoint.model).logits
        network.get_submodule(logits).register_forward_hook(keep)
        self._logits_of = lambda _: kept[0]
        head = MASK_AND_CONFIDENCE if self._asked else MASK
        module = ImageToMask(network, self._checkpoint.preprocessing, head=head)
        return TorchRunner(module, shape, torch_device(self._device))

    @property
    def _on_gpu(self) -> bool:
        return Device.parse(self._device).is_gpu


def common_size(a: Side, b: Side, wanted: tuple[int, int] | None) -> tuple[int, int]:
    """The (height, width) at which both run.

    ``wanted``, else the size that one of them has fixed, else the example of B, else of A.

    Raises:
        InputError: they predict other classes, or do not take one size.
    """
    if a.classes != b.classes:
        given = f"{str(a.path)!r} predicts {_classes(a)} and {str(b.path)!r} {_classes(b)}"
        expected = "the same classes in the same order"
        raise InputError(given, expected, "compare artifacts of one data set")
    fixed = {side.shape[1:]: side for side in (a, b) if DYNAMIC not in side.shape[1:]}
    if len(fixed) > 1:
        given = " and ".join(f"{str(x.path)!r} takes {h}x{w}" for (h, w), x in fixed.items())
        raise InputError(given, "artifacts of one size", "export both with the same --size")
    for size, side in fixed.items():
        if wanted and wanted != size:
            expected = f"{size[0]}x{size[1]}, the only size that {str(side.path)!r} takes"
            fix = "leave --size out, or export at that size"
            raise InputError(f"--size {wanted[0]}x{wanted[1]}", expected, fix)
        wanted = size
    size = wanted or b.size or a.size or DEFAULT_SIZE
    check_size(*size, max(a.stride, b.stride))
    return size


def _classes(side: Side) -> str:
    names = side.classes
    return f"{len(names)} classes ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
