"""Training recipes by data set: the published values, each of which a user may override."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from dabnet.errors import InputError

OPTIMIZERS = ("adam", "sgd")
LOSSES = ("ce", "ohem")
AMP = ("off", "bf16", "fp16")


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
        loss: ``ce``, weighted cross-entropy, or ``ohem``, the same over the hardest pixels.
        poly_power: exponent of the learning-rate decay.
        warmup_iterations: linear rise from a third of ``lr``; see ``warmup_of``.
        scales: factors of the random resize.
        amp: type that convolutions compute in where it is not ``off``, float32: ``bf16`` or
            ``fp16``, with its loss scaled.
        ema: decay of an exponential moving average of the weights, which is then what is validated
            and kept; 0 keeps the weights themselves.
        sync_bn: whether BatchNorm sees the batch of all processes, not each its own part.

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
    loss: str = "ce"
    poly_power: float = 0.9
    warmup_iterations: int = 500
    scales: tuple[float, ...] = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    amp: str = "off"
    ema: float = 0.0
    sync_bn: bool = False

    def __post_init__(self) -> None:
        choices = {"optimizer": OPTIMIZERS, "loss": LOSSES, "amp": AMP}
        below = {"momentum": 1, "weight_decay": 1, "poly_power": 10, "ema": 1}
        limits = {
            "batch_size": (self.batch_size >= 2, "at least 2 (batch normalisation)"),
            "max_epochs": (0 < self.max_epochs < math.inf, "a number above 0"),
            "warmup_iterations": (self.warmup_iterations >= 0, "0 or more"),
            "lr": (0 < self.lr < 10, "a learning rate between 0 and 10"),
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

    def warmup_of(self, total: int) -> int:
        """Warm-up of a run of ``total`` iterations: a tenth of it where the recipe's is longer."""
        return min(self.warmup_iterations, total // 10)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as stored in a checkpoint."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """Read what ``to_dict`` wrote."""
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**plain)


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
}


def eval_interval(epochs: float) -> int:
    """Epochs between validations of a run of ``epochs``, where none was asked for."""
    return max(1, int(epochs // 20))


QAT_EPOCHS = 5
QAT_LR_SHARE = 100
"""Fine-tuning with fake quantisation begins with this part of the recipe's rate."""


def recipe_for(dataset: str, qat: bool = False, **overrides: Any) -> Recipe:
    """Return the data set's recipe with every override that is not None.

    Args:
        qat: whether it is for fine-tuning with fake quantisation: fewer epochs, a lower rate.
    """
    recipe = RECIPES.get(dataset, RECIPES["camvid"])
    if qat:
        recipe = dataclasses.replace(recipe, max_epochs=QAT_EPOCHS, lr=recipe.lr / QAT_LR_SHARE)
    given = {name: value for name, value in overrides.items() if value is not None}
    return dataclasses.replace(recipe, **given)
