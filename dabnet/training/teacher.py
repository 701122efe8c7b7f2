"""A teacher: a trained network whose logits a student learns beside the labels.

Hinton et al. 2015, arXiv 1503.02531; of pixels: Liu et al. 2019, arXiv 1903.04197, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from dabnet.artifact import Artifact, as_input
from dabnet.checkpoint import Given, carries_its_own, load_checkpoint
from dabnet.data.dataset import Dataset
from dabnet.errors import ArtifactError, InputError
from dabnet.file_kind import CHECKPOINT, ENGINE
from dabnet.head import LOGITS
from dabnet.models.image_to_mask import ImageToMask
from dabnet.runtime.manifest import DYNAMIC

DEFAULT_SHARE = 0.5

Teacher = Callable[[Tensor], Tensor]
"""Images uint8 (N, h, w, 3) → logits float32 (N, K, h, w) on the same device, without gradients."""


def open_teacher(
    path: Path, train_set: Dataset, crop: tuple[int, int], device: torch.device
) -> Teacher:
    """Load a checkpoint of any network, ours or public, or an ONNX file that gives logits.

    Args:
        train_set: what the student learns; the teacher must have its classes.
        crop: (height, width) of the images.

    Raises:
        DabnetError: it cannot be loaded, or has other classes, masks, or images of another size.
    """
    artifact, classes = Artifact.open(path, device=str(device)), train_set.labels.classes
    if artifact.kind == ENGINE:
        raise InputError(f"--teacher {path}, an engine", "a checkpoint or an ONNX file")
    if artifact.kind == CHECKPOINT:
        given = None if carries_its_own(path) else Given(train_set.name)
        checkpoint = load_checkpoint(path, given)
        _check_classes(path, checkpoint.labels.classes, classes)
        network = checkpoint.network().requires_grad_(False)
        return ImageToMask(network, checkpoint.preprocessing, head=LOGITS).to(device)
    runner = artifact.runner()
    manifest = runner.manifest
    _check_classes(path, manifest.classes, classes)
    if len(manifest.output.shape) != 4:
        raise ArtifactError(
            f"--teacher {path} gives masks", "logits", "export it with: --head logits"
        )
    batch, *sides = manifest.input.sides
    if any(side not in (DYNAMIC, own) for side, own in zip(sides, crop, strict=True)):
        raise ArtifactError(
            f"--teacher {path} takes images of {sides[0]}x{sides[1]}",
            f"the crops, {crop[0]}x{crop[1]}",
            "export it at that --size",
        )
    if batch not in (DYNAMIC, 1):
        raise ArtifactError(f"--teacher {path} takes {batch} images at once", "1, or any number")

    def logits_of(pixels: Tensor) -> Tensor:
        images = pixels.cpu().numpy()
        parts = [images] if batch == DYNAMIC else [images[i : i + 1] for i in range(len(images))]
        found = [torch.from_numpy(runner.infer(as_input(manifest, part))) for part in parts]
        return torch.cat(found).to(pixels.device)

    return logits_of


def trained_on(path: Path) -> tuple[str, ...]:
    """Return what a teacher has trained on, as of ``Checkpoint``; its student learns that, too."""
    artifact = Artifact.open(path)
    if artifact.kind != CHECKPOINT:
        return artifact.manifest.trained_on if artifact.manifest else ()
    return load_checkpoint(path).trained_on if carries_its_own(path) else ()


def distilled(logits: Tensor, teacher: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the divergence of the student's classes from the teacher's, summed, and the pixels.

    Args:
        logits, teacher: float32 (N, K, h, w).
        valid: which pixels count, bool (N, h, w).
    """
    apart = F.kl_div(
        logits.log_softmax(1), teacher.log_softmax(1), reduction="none", log_target=True
    )
    return (apart.sum(1) * valid).sum(), valid.sum().float()


def _check_classes(path: Path, own: tuple[str, ...], classes: tuple[str, ...]) -> None:
    if own != classes:
        raise InputError(
            f"--teacher {path} has the classes {', '.join(own)}",
            f"those of the data set, {', '.join(classes)}",
        )
