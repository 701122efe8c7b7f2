"""Any artifact as one thing that gives masks of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dabnet.artifact import (
    CHECKPOINT,
    DEFAULT_SIZE,
    Artifact,
    Description,
    open_checkpoint,
    predict,
    predict_with_confidence,
)
from dabnet.data.dataset import Uint8Array
from dabnet.device import CPU
from dabnet.errors import InputError
from dabnet.given import Given
from dabnet.head import LARGEST, MASK, MASK_AND_CONFIDENCE
from dabnet.runtime.manifest import DYNAMIC

if TYPE_CHECKING:
    from dabnet.runtime.runner import Prediction

NO_CLASS = np.uint8(255)
"""In a mask: a pixel whose class is too uncertain."""


class Segmenter:
    """A checkpoint, an ONNX file or an engine, loaded, and run once, since first calls are slow.

    Args:
        given: what the checkpoint of another trainer does not say; ours carry it.
        description: of an ONNX file or an engine that carries no manifest.
        size: (height, width) at which to run it; None: that of its example, 512x1024 of a
            checkpoint.
        device: None runs an engine on the first GPU and all else on the CPU.
        threads: CPU threads of onnxruntime or PyTorch; None leaves their choice.
        least: probability, 0…1, below which a pixel is of no class (``NO_CLASS``); None asks the
            artifact for no confidence.

    Attributes:
        size: (height, width) of its images.
        batch: images per call.
        info: what runs, and on what (``RunnerInfo``).
        is_described: whether it is what was given, and not what the file itself says.

    Raises:
        DabnetError: it cannot be loaded, does not take this size, or gives no confidence.
    """

    def __init__(
        self,
        path: Path,
        given: Given | None = None,
        description: Description | None = None,
        size: tuple[int, int] | None = None,
        device: str | None = None,
        threads: int | None = None,
        trust: bool = False,
        least: float | None = None,
    ) -> None:
        artifact = Artifact.open(path, description, device, trust)
        self._least = None if least is None else LARGEST * least
        self._masks: Callable[[Uint8Array], Uint8Array]
        self._both: Callable[[Uint8Array], Prediction]
        if artifact.kind == CHECKPOINT:
            from dabnet.checkpoint import load_checkpoint
            from dabnet.models import check_size, network_named

            checkpoint = load_checkpoint(path, given)
            self.is_described = True  # else what was given would have been refused
            self.classes = checkpoint.labels.classes
            self.palette = checkpoint.labels.palette
            self.size, self.batch = size or DEFAULT_SIZE, 1
            check_size(*self.size, network_named(checkpoint.model).stride)
            head, shape = MASK if least is None else MASK_AND_CONFIDENCE, (1, *self.size, 3)
            torch = open_checkpoint(path, given, shape, device or CPU, threads, head=head)
            self.info, self.close = torch.info, torch.close
            self._masks, self._both = torch.infer, torch.infer_with_confidence
        else:
            runner = artifact.runner(threads=threads)
            manifest = runner.manifest
            self.is_described = manifest.is_described
            self.classes, self.palette = manifest.classes, manifest.palette
            batch, *sides = manifest.input.sides
            self.batch, self.size = max(1, batch), size or manifest.size
            _check_sides(path, (sides[0], sides[1]), self.size, manifest.stride)
            self.info, self.close = runner.info, runner.close
            self._masks = lambda images: predict(runner, images)
            self._both = lambda images: predict_with_confidence(runner, images)
        self.masks(np.zeros((self.batch, *self.size, 3), np.uint8))

    def masks(self, images: Uint8Array) -> Uint8Array:
        """Images uint8 (``batch``, H, W, 3), RGB, of ``size`` → masks uint8 (``batch``, H, W)."""
        if self._least is None:
            return self._masks(images)
        masks, confidences = self._both(images)
        return np.where(confidences < self._least, NO_CLASS, masks)


def _check_sides(path: Path, sides: tuple[int, int], size: tuple[int, int], stride: int) -> None:
    """Raise InputError unless an artifact with these sides, -1 for any, takes ``size``."""
    height, width = size
    for side, wanted in zip(sides, size, strict=True):
        if side not in (wanted, DYNAMIC):
            fix = "leave --size out, or export the artifact at that size"
            expected = f"{sides[0]}x{sides[1]}, the only size that {str(path)!r} takes"
            raise InputError(f"--size {height}x{width}", expected, fix)
        if side == DYNAMIC and wanted % stride:
            raise InputError(f"--size {height}x{width}", f"multiples of {stride}")
