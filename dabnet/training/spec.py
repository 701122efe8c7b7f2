"""What a training run is asked to do, how it ended, and which run it may continue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from dabnet.checkpoint import Checkpoint
from dabnet.data.dataset import Dataset
from dabnet.errors import InputError
from dabnet.metrics import Counts
from dabnet.models import network_named
from dabnet.training.recipes import Recipe

STATE_VERSION = 2
"""Of what ``last.pth`` holds beside the weights; another version's run cannot go on exactly."""


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """What to train, on what, and where to leave it.

    Attributes:
        model: name in the registry of networks.
        recipe: the resolved recipe.
        output: directory of the checkpoints, the log and the curves.
        device: where to compute.
        seed: of the initial weights, the order of the images and their augmentation.
        eval_every: epochs between validations; the last epoch is always validated.
        workers: processes that augment images; 0 does it in the training process.
        data_path: one of ``dabnet.training.data_path.DATA_PATHS``.
        resume: a ``last.pth`` to continue from.
        qat: a checkpoint to fine-tune with fake quantisation; None trains from random weights.
        channels_last: whether the network computes in (N, H, W, C) order.
        compile: whether ``torch.compile`` makes its kernels.
        tensorboard: whether event files are written.
        cache_dir: where pixel counts of data sets are kept; None keeps none.
        save_seconds: the longest time between two saves of ``last.pth``.
    """

    model: str
    recipe: Recipe
    output: Path
    device: torch.device
    seed: int
    eval_every: int
    workers: int = 0
    data_path: str = "auto"
    resume: Path | None = None
    qat: Path | None = None
    channels_last: bool = True
    compile: bool = False
    tensorboard: bool = False
    cache_dir: Path | None = None
    save_seconds: float = 60.0

    def __post_init__(self) -> None:
        network_named(self.model).check_size(*self.recipe.input_size)


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        finished: False where it was interrupted; ``last`` then continues it.
        best_miou: best validation mIoU, 0…1, or None where no validation ran.
        confusion: of the last validation, (K, K), or None.
    """

    finished: bool
    last: Path
    best_miou: float | None
    confusion: Counts | None


def check_resumable(checkpoint: Checkpoint, spec: TrainingSpec, train_set: Dataset) -> None:
    """Raise unless ``checkpoint`` is the last state of the very run that ``spec`` describes."""
    if not checkpoint.training:
        raise InputError(f"--resume {spec.resume}: it holds weights only", "the last.pth of a run")
    run = checkpoint.training
    if run.get("version") != STATE_VERSION:
        raise InputError(
            f"--resume {spec.resume}: its run was started by another version of dabnet-train",
            "a run of this version, to continue it exactly",
            "finish it with the version that started it, or start a new run",
        )
    state = {**Recipe.from_dict(checkpoint.recipe).to_dict(), "model": checkpoint.model}
    asked = {**spec.recipe.to_dict(), "model": spec.model}
    state |= {"seed": run["seed"], "train_type": run["split"]}
    asked |= {"seed": spec.seed, "train_type": train_set.split}
    for name, value in asked.items():
        if state[name] != value:
            raise InputError(
                f"--{name.replace('_', '-')} {value} for a run that was started with {state[name]}",
                "the same values to continue it",
                "leave the option out, or start a new run in another --output",
            )
    if run["images"] != len(train_set):
        raise InputError(
            f"{len(train_set)} training images for a run that was started with {run['images']}",
            "the same images to continue it",
            "check --data-dir, or start a new run in another --output",
        )
