"""The registry of networks: a network is one module and one line of ``NETWORKS``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dabnet.errors import InputError
from dabnet.preprocessing import Preprocessing, Triple

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Network:
    """Facts about a network that its module does not contain.

    Attributes:
        name: on the command line, in checkpoints and in artifacts.
        factory: ``MODULE:CLASS``, called with the number of classes K. ``forward`` takes float
            images (N, 3, H, W), preprocessed, and returns float logits (N, K, H, W).
        stride: height and width of an image are multiples of it.
        logits: dotted name of the submodule that computes the logits before they are enlarged.
        scale: factor per channel of the preprocessing that training begins with, after the mean
            of the data set is subtracted.
        published: data set → preprocessing of the checkpoints that others published for it.
    """

    name: str
    factory: str
    stride: int
    logits: str
    scale: Triple = (1.0, 1.0, 1.0)
    published: Mapping[str, Preprocessing] = field(default_factory=dict)

    def check_size(self, height: int, width: int) -> None:
        """Raise ``InputError`` if the network cannot take images of this size in pixels."""
        check_size(height, width, self.stride)


def check_size(height: int, width: int, stride: int) -> None:
    """Raise ``InputError`` unless height and width in pixels are multiples of ``stride``."""
    if height < stride or width < stride or height % stride or width % stride:
        nearest = [max(stride, round(side / stride) * stride) for side in (height, width)]
        raise InputError(
            f"image size {height}x{width}",
            f"height and width that are multiples of {stride}",
            f"the nearest is {nearest[0]}x{nearest[1]}",
        )


# Means of Reagan1311/DABNet, dataset/camvid.py and dataset/cityscapes.py, there in BGR order.
_DABNET_CAMVID = Preprocessing(mean_rgb=(99.625404, 103.329834, 105.65775))
_DABNET_CITYSCAPES = Preprocessing(mean_rgb=(73.158325, 82.90902, 72.3924))

NETWORKS = {
    network.name: network
    for network in (
        Network(
            "dabnet",
            "dabnet.models.dabnet:DABNet",
            stride=8,
            logits="classifier",
            published={
                "camvid": _DABNET_CAMVID,
                "cityscapes": _DABNET_CITYSCAPES,
                "toy-street": _DABNET_CAMVID,  # it draws CamVid's classes
            },
        ),
    )
}


def network_named(name: str) -> Network:
    """Return the registered network of this name, or raise ``InputError``."""
    if name not in NETWORKS:
        raise InputError(f"unknown model {name!r}", "one of " + ", ".join(NETWORKS))
    return NETWORKS[name]


def build_model(name: str, classes: int) -> nn.Module:
    """Return a freshly initialised network in training mode.

    Args:
        name: of a registered network.
        classes: number of output classes, at least 2.
    """
    module, _, factory = network_named(name).factory.partition(":")
    if classes < 2:
        raise InputError(f"{classes} classes", "at least 2")
    network: nn.Module = getattr(importlib.import_module(module), factory)(classes)
    return network
