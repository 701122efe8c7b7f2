"""The registry of networks: one network a file, built by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dabnet.errors import InputError

if TYPE_CHECKING:
    from torch import nn

MODEL_NAMES = ("dabnet",)

STRIDE = 8
"""Every registered network predicts at 1/8 of the image: height and width are multiples of 8."""


def build_model(name: str, classes: int) -> nn.Module:
    """Return a freshly initialised network in training mode.

    Args:
        name: one of ``MODEL_NAMES``.
        classes: number of output classes, at least 2.
    """
    if name not in MODEL_NAMES:
        raise InputError(f"unknown model {name!r}", "one of " + ", ".join(MODEL_NAMES))
    if classes < 2:
        raise InputError(f"{classes} classes", "at least 2")
    from dabnet.models.dabnet import DABNet

    return DABNet(classes)


def check_size(height: int, width: int) -> None:
    """Raise if a network of this registry cannot take images of this size in pixels."""
    if height < STRIDE or width < STRIDE or height % STRIDE or width % STRIDE:
        nearest = [max(STRIDE, round(side / STRIDE) * STRIDE) for side in (height, width)]
        raise InputError(
            f"image size {height}x{width}",
            f"height and width that are multiples of {STRIDE}",
            f"the nearest is {nearest[0]}x{nearest[1]}",
        )
