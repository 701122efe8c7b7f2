"""Where fine-tuning with fake quantisation starts: a trained network, and the ranges it keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dabnet.checkpoint import Checkpoint, load_checkpoint
from dabnet.console import progress_bar
from dabnet.data.dataset import Dataset, evenly_spaced
from dabnet.errors import InputError
from dabnet.models.image_to_mask import ImageToMask
from dabnet.training.activation_ranges import observed_ranges
from dabnet.training.processes import Processes
from dabnet.training.spec import TrainingSpec

RANGE_IMAGES = 32


def load_float_checkpoint(path: Path, dataset: str | None, model: str | None) -> Checkpoint:
    """Return the checkpoint of ``--qat``.

    Args:
        dataset, model: what was asked for beside it; None takes the checkpoint's own.

    Raises:
        DabnetError: it is no checkpoint, is of another data set or network, or has been trained
            with fake quantisation already.
    """
    checkpoint = load_checkpoint(path, dataset)
    if model not in (None, checkpoint.model):
        raise InputError(
            f"--model {model}, but {str(path)!r} is a {checkpoint.model}",
            "the network of the checkpoint",
            "leave --model out",
        )
    if checkpoint.activation_ranges:
        raise InputError(
            f"--qat {path}: it was trained with fake quantisation already",
            "a checkpoint of float training",
            "start from that one again with other options, or continue its run with --resume",
        )
    return checkpoint


def qat_start(
    path: Path, spec: TrainingSpec, train_set: Dataset, processes: Processes
) -> Checkpoint:
    """Return the checkpoint at ``path`` with the ranges of its activations on training images.

    The images are spread evenly over the split and are neither resized nor augmented.
    """
    checkpoint = load_float_checkpoint(path, train_set.name, spec.model)
    if checkpoint.labels.classes != train_set.labels.classes:
        raise InputError(
            f"{str(path)!r} has the classes {', '.join(checkpoint.labels.classes)}",
            f"those of {train_set.name}: {', '.join(train_set.labels.classes)}",
        )
    indices = evenly_spaced(len(train_set), RANGE_IMAGES)
    module = ImageToMask(checkpoint.network(), checkpoint.preprocessing).to(spec.device).eval()

    def image(number: int) -> Tensor:
        # A copy: arrays that Pillow gives are read-only, which tensors cannot be.
        pixels = torch.tensor(train_set[indices[number]].image[None], device=spec.device)
        return module.preprocess(pixels)

    names = [train_set[index].name for index in indices]
    with progress_bar("ranges of activations", 2 * len(indices), shown=processes.first) as step:
        ranges = observed_ranges(module.network, names, image, step)
    # Rounding may differ from one GPU to the next; the ranges of a run must not.
    thresholds = torch.tensor(list(ranges.values()), device=spec.device)
    processes.take_from_first_([thresholds])
    agreed = dict(zip(ranges, thresholds.tolist(), strict=True))
    return replace(checkpoint, activation_ranges=agreed)
