"""Training recipes by network and data set, published and improved; a user may override any."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from dabnet.errors import InputError
from dabnet.records import Codec

OPTIMIZERS = ("adam", "sgd")
LOSSES = ("ce", "ohem", "focal", "lovasz")
AMP = ("off", "bf16", "fp16")
WHOLE, CLASSIFIER, ENCODER, DECODER = "whole", "classifier", "encoder", "decoder"
STAGES = (WHOLE, CLASSIFIER, ENCODER, DECODER)
POLY, COSINE = "poly", "cosine"
SCHEDULES = (POLY, COSINE)
MOST_BATCH, MOST_EPOCHS, MOST_ITERATIONS = 65_536, 1_000_000, 1_000_000_000
MOST_CROP = 16_384  # pixels a side


@dataclass(frozen=True, slots=True)
class Recipe:
    """All parameters of a training run besides its data and seed.

    Attributes:
        input_size: (height, width) of the training crops in pixels.
        batch_size: images per iteration, of all processes together.
        max_epochs: passes over the training split; the last may be a fraction of one.
        optimizer: ``adam`` or ``sgd``.
        lr: peak learning rate.
        momentum: of SGD; Adam takes its usual 0.9 and 0.999.
        weight_decay: L2 penalty inside the optimiser, as published (not decoupled).
        norm_decay: whether it also falls on the scales and shifts of BatchNorm and the slopes of
            PReLU, as published; He et al. 2019, arXiv 1812.01187, section 3.1, leave them out.
        loss: ``ce``, cross-entropy, ``ohem``, the same over the hardest pixels, ``focal`` or
            ``lovasz``; see ``dabnet.training.losses``. All but the last weigh the classes.
        label_smoothing: share of the truth that ``ce`` spreads over all classes.
        rarity: the constant c of the class weights 1 / ln(c + share).
        auxiliary: weight of the cross-entropy of a linear classifier on the features inside the
            network, which is left out of the result (Zhao et al. 2017, arXiv 1612.01105, section
            3.3); 0 has none.
        teacher_share: weight of a teacher in the loss, see ``dabnet.training.teacher``; the truth
            has the rest.
        schedule: decay of the learning rate, ``poly`` or ``cosine``.
        poly_power: exponent of ``poly``.
        warmup_iterations: linear rise from a third of ``lr``; see ``warmup_of``.
        scales: factors of the random resize.
        rare_crops: share of the crops that show a class drawn from those in the image, see
            ``dabnet.data.augmentation``.
        colour_jitter: strength of random changes of the colours, see
            ``dabnet.data.augmentation.recoloured``; 0 changes none.
        amp: type that convolutions compute in where it is not ``off``, float32: ``bf16`` or
            ``fp16``, with its loss scaled.
        ema: decay of an exponential moving average of the weights, which is then what is validated
            and kept; 0 keeps the weights themselves.
        sync_bn: whether BatchNorm sees the batch of all processes, not each its own part.
        stage: ``whole``, the whole network from its start; ``classifier``, the encoder as a
            classifier of pictures; ``encoder``, the encoder alone on labels at the size of its
            features; ``decoder``, the whole network from a trained encoder.

    Raises:
        InputError: a value is out of its range.
    """

    input_size: tuple[int, int]
    batch_size: int
    max_epochs: float
    optimizer: str = "adam"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 2e-4
    norm_decay: bool = True
    loss: str = "ce"
    label_smoothing: float = 0.0
    rarity: float = 1.10
    auxiliary: float = 0.0
    teacher_share: float = 0.0
    schedule: str = POLY
    poly_power: float = 0.9
    warmup_iterations: int = 500
    scales: tuple[float, ...] = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    rare_crops: float = 0.0
    colour_jitter: float = 0.0
    amp: str = "off"
    ema: float = 0.0
    sync_bn: bool = False
    stage: str = WHOLE

    def __post_init__(self) -> None:
        choices = {
            "optimizer": OPTIMIZERS,
            "loss": LOSSES,
            "schedule": SCHEDULES,
            "amp": AMP,
            "stage": STAGES,
        }
        below = {"momentum": 1, "weight_decay": 1, "poly_power": 10, "ema": 1}
        below |= {"label_smoothing": 1, "colour_jitter": 1, "auxiliary": 10, "teacher_share": 1}
        limits = {
            "input_size": (max(self.input_size) <= MOST_CROP, f"at most {MOST_CROP} a side"),
            "batch_size": (
                2 <= self.batch_size <= MOST_BATCH,
                f"at least 2 (batch normalisation), at most {MOST_BATCH}",
            ),
            "max_epochs": (0 < self.max_epochs <= MOST_EPOCHS, f"above 0, at most {MOST_EPOCHS}"),
            "warmup_iterations": (
                0 <= self.warmup_iterations <= MOST_ITERATIONS,
                f"from 0 to {MOST_ITERATIONS}",
            ),
            "lr": (0 < self.lr < 10, "a learning rate between 0 and 10"),
            "rare_crops": (0 <= self.rare_crops <= 1, "a share from 0 to 1"),
            "rarity": (1 < self.rarity <= 10, "a number above 1, at most 10"),
            "scales": (
                len(self.scales) > 0 and all(0.1 <= scale <= 10 for scale in self.scales),
                "factors between 0.1 and 10",
            ),
            **{n: (getattr(self, n) in names, " or ".join(names)) for n, names in choices.items()},
            **{
                n: (0 <= getattr(self, n) < top, f"at least 0 and below {top}")
                for n, top in below.items()
            },
        }
        for name, (fits, expected) in limits.items():
            if not fits:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)!r}", expected)
        if self.label_smoothing and self.loss != "ce":
            raise InputError(
                f"--label-smoothing {self.label_smoothing} with --loss {self.loss}", "--loss ce"
            )

    @property
    def validation_scale(self) -> float:
        """Factor of the resize of a validated image: the median of the training's, at most 1."""
        return min(1.0, median(self.scales))

    def warmup_of(self, total: int) -> int:
        """Warm-up of a run of ``total`` iterations: a tenth of it where the recipe's is longer."""
        return min(self.warmup_iterations, total // 10)

    def decay(self, remaining: float) -> float:
        """Factor of the learning rate by the share of the run that remains, 1…0: a power of it
        (Reagan1311/DABNet, WarmupPolyLR), or half a cosine (Loshchilov & Hutter 2017, arXiv
        1608.03983, equation 5)."""
        if self.schedule == COSINE:
            return (1 - math.cos(math.pi * remaining)) / 2
        return float(remaining**self.poly_power)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as stored in a checkpoint."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "a checkpoint") -> Recipe:
        """Read what ``to_dict`` wrote; InputError names the file as ``source``."""
        _RECIPE.take(values, source)  # types; what follows keeps 70 apart from 70.0
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**plain)


_RECIPE = Codec(
    Recipe, "recipe", "dabnet-train", "start a new run in another --output", error=InputError
)

PICTURES = "pictures"
RECIPES = {
    # DABNet (BMVC 2019), section 4.1, and the defaults of its published training code.
    "camvid": Recipe(input_size=(360, 480), batch_size=16, max_epochs=1000),
    "cityscapes": Recipe(
        input_size=(512, 1024),
        batch_size=8,
        max_epochs=1000,
        optimizer="sgd",
        lr=4.5e-2,
        weight_decay=1e-4,
        loss="ohem",
    ),
    # Short, for a demonstration on a CPU; scenes are drawn at 512x1024.
    "toy-street": Recipe(
        input_size=(192, 384), batch_size=4, max_epochs=6, lr=2e-3, scales=(0.75, 1.0, 1.25)
    ),
    # No network of ours was published with these: the optimiser of CamVid, crops as others take.
    "voc": Recipe(input_size=(512, 512), batch_size=16, max_epochs=200),
    "ade20k": Recipe(input_size=(512, 512), batch_size=16, max_epochs=120),
    "folder": Recipe(input_size=(512, 512), batch_size=8, max_epochs=300),
    # Eromera/erfnet_pytorch, imagenet/main.py.
    PICTURES: Recipe(
        input_size=(224, 224),
        batch_size=256,
        max_epochs=90,
        optimizer="sgd",
        lr=0.1,
        weight_decay=1e-4,
        stage=CLASSIFIER,
    ),
}
"""Of DABNet, by data set; ``pictures`` is that of an encoder as a classifier."""

_ADAM: dict[str, Any] = {"optimizer": "adam", "lr": 5e-4, "loss": "ce", "warmup_iterations": 0}

# Eromera/erfnet_pytorch and xiaoyufenfei/LEDNet, train/main.py: class weights with 1.10, in the
# first stage with 1.20, and images of Cityscapes resized to 512x1024 as a whole.
_ERFNET = _ADAM | {"weight_decay": 1e-4}

_OPTIMISERS: Mapping[str, Mapping[str, Any]] = {
    "lednet": _ERFNET,
    "erfnet": _ERFNET,
    # davidtvs/PyTorch-ENet, args.py; class weights of the paper's section 4.
    "enet": _ADAM | {"weight_decay": 2e-4, "rarity": 1.02},
}
"""What the recipe of a network changes on every data set."""

_LENGTHS: Mapping[str, Mapping[str, Any]] = {
    "lednet": {"batch_size": 5, "max_epochs": 300},
    "erfnet": {"batch_size": 6, "max_epochs": 150},
    "enet": {"batch_size": 10, "max_epochs": 300},
}
"""What it changes as well on CamVid and Cityscapes."""

IMPROVED: Mapping[str, Mapping[str, Any]] = {"camvid": {"colour_jitter": 0.4}}
"""What the default recipe of DABNet changes in the paper's, by data set: what gained accuracy on
driving sequences that a run did not see (``studies/recipes.py``, docs/training.md)."""

ENCODER_RARITY = 1.20

MOST_SIDE = 1024
"""A larger image of a user's own is trained with its longer side reduced to this, in pixels."""


def eval_interval(epochs: float) -> int:
    """Epochs between validations of a run of ``epochs``, where none was asked for."""
    return max(1, int(epochs // 20))


QAT_EPOCHS = 5
QAT_LR_SHARE = 100
"""Fine-tuning with fake quantisation begins with this part of the recipe's rate."""


@dataclass(frozen=True, slots=True)
class Extent:
    """What a recipe is fitted to where its values were not asked for.

    Attributes:
        images: number of training images.
        size: (height, width) of a usual one in pixels.
        processes: how many share a batch.
    """

    images: int
    size: tuple[int, int]
    processes: int = 1


def recipe_for(
    model: str,
    dataset: str,
    extent: Extent | None = None,
    *,
    qat: bool = False,
    paper: bool = False,
    **overrides: Any,
) -> Recipe:
    """Return the recipe of a network on a data set with every override that is not None.

    Args:
        extent: of the data. Its own batch is no larger than the data, and a multiple of the
            processes. Large images of a user's own are reduced, and crops are no larger than them.
        qat: whether it is for fine-tuning with fake quantisation: fewer epochs, a lower rate.
        paper: whether it is exactly the published one.
    """
    changes = dict(_OPTIMISERS.get(model, {})) if dataset != PICTURES else {}
    if changes and dataset in ("camvid", "cityscapes"):
        changes |= _LENGTHS[model]
        if dataset == "cityscapes":
            changes["scales"] = (0.5,)
    if model == "dabnet" and not (qat or paper):
        changes |= IMPROVED.get(dataset, {})
    if overrides.get("stage") == ENCODER:
        changes["rarity"] = ENCODER_RARITY
    recipe = dataclasses.replace(RECIPES.get(dataset, RECIPES["camvid"]), **changes)
    if qat:
        recipe = dataclasses.replace(recipe, max_epochs=QAT_EPOCHS, lr=recipe.lr / QAT_LR_SHARE)
    if extent:
        recipe = _fitted(recipe, extent, dataset == "folder")
    given = {name: value for name, value in overrides.items() if value is not None}
    return dataclasses.replace(recipe, **given)


def _fitted(recipe: Recipe, extent: Extent, own_images: bool) -> Recipe:
    shared = min(recipe.batch_size, extent.images) // extent.processes * extent.processes
    recipe = dataclasses.replace(recipe, batch_size=max(2, extent.processes, shared))
    if not own_images:
        return recipe
    reduced = min(1.0, MOST_SIDE / max(extent.size))
    height, width = (
        min(crop, 8 * math.ceil(side * reduced / 8))
        for crop, side in zip(recipe.input_size, extent.size, strict=True)
    )
    scales = tuple(round(reduced * scale, 4) for scale in recipe.scales)
    return dataclasses.replace(recipe, input_size=(height, width), scales=scales)
