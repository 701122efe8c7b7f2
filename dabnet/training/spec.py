"""The request, the progress and the result of a training run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge, Le, Lt

from dabnet.checkpoint import Checkpoint
from dabnet.data.dataset import Dataset
from dabnet.data.splits import parts_of
from dabnet.data.statistics import SplitCounts
from dabnet.errors import InputError
from dabnet.files import existing_file, sha256_of_file
from dabnet.metrics import Counts
from dabnet.models import network_named
from dabnet.records import Amount, Codec, Count, Name, Share
from dabnet.training.recipes import CLASSIFIER, DECODER, MOST_EPOCHS, WHOLE, Recipe
from dabnet.training.stages import check_has_encoder
from dabnet.training.time_limit import TimeLimit


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """The request of a training run.

    Attributes:
        model: name in the registry of networks.
        recipe: the resolved recipe.
        output: directory of the checkpoints, the log and the curves.
        device: where to compute.
        seed: of the initial weights, the order of the images and their augmentation.
        eval_every: epochs between validations, None for a usual number; the last epoch is always
            validated.
        workers: processes that augment images; 0 does it in the training process.
        data_path: ``auto``, ``device`` or ``workers``; see ``dabnet.data.batches``.
        resume: a ``last.pth`` to continue from.
        qat: a checkpoint to fine-tune with fake quantisation.
        init: a checkpoint of the network to start from, of any classes.
        encoder: a checkpoint whose encoder to start from. Without any of these four, a run starts
            from random weights.
        teacher: a checkpoint or an ONNX file whose logits the network learns beside the labels.
        dilations: of the network; none: the published ones, or those of the checkpoint.
        channels_last: whether the network computes in (N, H, W, C) order.
        compile: whether ``torch.compile`` makes its kernels.
        tensorboard: whether event files are written.
        visdom: whether curves and predictions are sent to a visdom server.
        cache_dir: where pixel counts of data sets are kept; None keeps none.
        save_seconds: the longest time between two saves of ``last.pth``.
        limit: the time that a new run may take: ``max_epochs`` becomes what fits.

    Raises:
        InputError: the network cannot take crops of the recipe's size, or options exclude or need
            each other.
    """

    model: str
    recipe: Recipe
    output: Path
    device: torch.device
    seed: int
    eval_every: int | None
    workers: int = 0
    data_path: str = "auto"
    resume: Path | None = None
    qat: Path | None = None
    init: Path | None = None
    encoder: Path | None = None
    teacher: Path | None = None
    dilations: tuple[int, ...] = ()
    channels_last: bool = True
    compile: bool = False
    tensorboard: bool = False
    visdom: bool = False
    cache_dir: Path | None = None
    save_seconds: float = 60.0
    limit: TimeLimit | None = None

    def __post_init__(self) -> None:
        network = network_named(self.model)
        network.check_size(*self.recipe.input_size)
        network.checked_dilations(self.dilations)
        starts = {n: getattr(self, n) for n in ("resume", "qat", "init", "encoder")}
        given = [f"--{name} {path}" for name, path in starts.items() if path]
        if len(given) > 1:
            raise InputError(" and ".join(given), "one of them")
        stage = self.recipe.stage
        if stage != WHOLE:
            check_has_encoder(self.model, stage)
        if self.encoder and stage == WHOLE:
            raise InputError(
                f"--encoder {self.encoder} alone", "--stage decoder or --stage encoder"
            )
        if stage == DECODER and not (self.encoder or self.resume):
            raise InputError(
                "--stage decoder alone", "--encoder CHECKPOINT, the result of --stage encoder"
            )
        if bool(self.teacher) != bool(self.recipe.teacher_share):
            raise InputError(
                f"--teacher-share {self.recipe.teacher_share:g}"
                + (f" with --teacher {self.teacher}" if self.teacher else " alone"),
                "both --teacher FILE and a share above 0, or neither",
            )
        unused = ["auxiliary"] if stage != WHOLE else []
        unused += ["rare_crops"] if stage == CLASSIFIER else []
        for name in unused:
            if getattr(self.recipe, name):
                option = name.replace("_", "-")
                raise InputError(f"--stage {stage} and --{option}", "one of them")
        excluded = ["qat", "teacher"] if stage != WHOLE else []
        excluded += ["init", "encoder", "limit", "visdom"] if stage == CLASSIFIER else []
        for name in excluded:
            if getattr(self, name):
                option = "max-minutes" if name == "limit" else name
                raise InputError(f"--stage {stage} and --{option}", "one of them")
        if self.limit and self.resume:
            raise InputError(
                f"--max-minutes {self.limit.minutes:g} and --resume {self.resume}",
                "one of them: a run that is continued keeps its epochs",
                "leave --max-minutes out",
            )


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The end of a run.

    Attributes:
        finished: False where it was interrupted; ``last`` then continues it.
        best_miou: best validation mIoU, 0…1, or None where no validation ran.
        confusion: of the last validation, (K, K), or None.
        seen: what the network has trained on that holds validation images; "" for none.
    """

    finished: bool
    last: Path
    best_miou: float | None
    confusion: Counts | None
    seen: str = ""


@dataclass(frozen=True, slots=True)
class Epoch:
    """One row of the log: shares are 0…1.

    Values of validation are None where it did not run, and those of training in epoch 0, which is
    what fine-tuning starts from.
    """

    epoch: Count
    iteration: Count
    lr: Amount | None = None
    loss: float | None = None
    val_miou: Share | None = None
    val_pixel_accuracy: Share | None = None
    images_per_s: Amount | None = None


STATE_VERSION = 2


@dataclass(frozen=True, slots=True)
class RunState:
    """Progress and options of a run, which ``last.pth`` holds beside its tensors.

    Attributes:
        iteration: steps done.
        loss_sum: of the steps of the epoch that is under way.
        best: highest validation mIoU so far, 0…1.
        history: one row per epoch.
        split, images: name of the training split, and its number of images.
        val_split: name of the split that is validated.
        teacher, teacher_sha256: path of the teacher's file and its hash; "" for none.
        counts: of the training split.
        data_path: ``device`` or ``workers``.
        eval_every: epochs between validations.
        seed, compile, channels_last: as of ``TrainingSpec``.
    """

    iteration: Count
    loss_sum: float
    best: Share | None
    history: tuple[Epoch, ...]
    seed: Annotated[int, Ge(0), Lt(2**32)]
    split: Name
    images: Annotated[int, Ge(1)]
    eval_every: Annotated[int, Ge(1), Le(MOST_EPOCHS)]
    counts: SplitCounts
    data_path: str
    compile: bool
    channels_last: bool
    val_split: Name = "val"
    teacher: str = ""
    teacher_sha256: str = ""
    version: int = STATE_VERSION

    def __post_init__(self) -> None:
        counts, rows = self.counts, self.history
        order = [(row.epoch, row.iteration) for row in rows]
        pixels = (*counts.class_pixels, *counts.colour_sum, counts.pixels)
        faults = {
            "history: expected rows in order": order != sorted(set(order)),
            f"history: expected rows up to iteration {self.iteration}": any(
                row.iteration > self.iteration for row in rows
            ),
            "counts: expected numbers from 0 to 2^63": not all(0 <= n < 2**63 for n in pixels),
            "data_path: expected device or workers": self.data_path not in ("device", "workers"),
            "counts: expected 3 sums of colours": len(counts.colour_sum) != 3,
            "counts: expected no more labels than pixels": sum(counts.class_pixels) > counts.pixels
            or max(counts.colour_sum, default=0) > 255 * counts.pixels,
        }
        for fault, found in faults.items():
            if found:
                raise ValueError(fault)


STATE = Codec(
    RunState,
    "state of a run",
    "dabnet-train",
    "start a new run in another --output, or take the dabnet-train that started this one",
    version=("version", STATE_VERSION),
)


def state_of(checkpoint: Checkpoint, path: Path | None) -> RunState:
    """Return the state in a ``last.pth``, which ``path`` names in errors.

    Raises:
        InputError: the checkpoint has none, or that of another version.
    """
    if not checkpoint.training:
        raise InputError(f"--resume {path}: it holds weights only", "the last.pth of a run")
    names = {field.name for field in fields(RunState)}
    plain = {name: value for name, value in checkpoint.training.items() if name in names}
    return STATE.take(plain, f"--resume {path}")


def hash_of_teacher(spec: TrainingSpec) -> str:
    """Return the SHA-256 of the teacher's file, "" without one; InputError if it is missing."""
    if spec.teacher is None:
        return ""
    return sha256_of_file(existing_file(spec.teacher, "a teacher: a checkpoint or an ONNX file"))


def _splits(train: str, val: str) -> dict[str, str]:
    """Return the options that made these splits, by name."""
    split, fold = parts_of(train)
    return {"train_type": split} | ({"fold": fold} if fold else {"fold": "none", "split": val})


def resumable_state(
    checkpoint: Checkpoint, spec: TrainingSpec, train_set: Dataset, val_set: Dataset
) -> RunState:
    """Return the state of the very run that ``spec`` describes, or raise ``InputError``."""
    state = state_of(checkpoint, spec.resume)
    recipe = Recipe.from_dict(checkpoint.recipe, f"--resume {spec.resume}")
    checked = network_named(checkpoint.model).checked_dilations
    own, given = (
        ",".join(map(str, checked(dilations)))
        for dilations in (checkpoint.dilations, spec.dilations or checkpoint.dilations)
    )
    before, asked = (
        recipe.to_dict()
        | {"model": model, "seed": seed, "dilations": dilations}
        | _splits(train, val)
        for recipe, model, seed, train, val, dilations in (
            (recipe, checkpoint.model, state.seed, state.split, state.val_split, own),
            (spec.recipe, spec.model, spec.seed, train_set.split, val_set.split, given),
        )
    )
    if spec.teacher and hash_of_teacher(spec) != state.teacher_sha256:
        raise InputError(
            f"--teacher {spec.teacher}, another file than {state.teacher} that the run began with",
            "the same teacher to continue it",
            "leave the option out, or start a new run in another --output",
        )
    for name, value in asked.items():
        if (old := before[name]) != value:
            raise InputError(
                f"--{name.replace('_', '-')} {value} for a run that was started with {old}",
                "the same values to continue it",
                "leave the option out, or start a new run in another --output",
            )
    if state.images != len(train_set):
        raise InputError(
            f"{len(train_set)} training images for a run that was started with {state.images}",
            "the same images to continue it",
            "check --data-dir, or start a new run in another --output",
        )
    total = max(1, round(recipe.max_epochs * (state.images // recipe.batch_size)))
    if state.iteration > total:
        STATE.refuse(f"--resume {spec.resume}", f"iteration {state.iteration} of a run of {total}")
    if len(state.counts.class_pixels) != (classes := len(checkpoint.labels.classes)):
        STATE.refuse(f"--resume {spec.resume}", f"counts: expected those of {classes} classes")
    return state
