"""The registry of networks: a network is one module and one line of ``NETWORKS``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dabnet.errors import InputError
from dabnet.preprocessing import Preprocessing, Triple

if TYPE_CHECKING:
    from torch import nn


MOST_CLASSES = 255
"""A mask is uint8, and 255 is what most data sets ignore."""

UNIT = Preprocessing((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
"""RGB / 255."""


@dataclass(frozen=True, slots=True)
class Network:
    """Facts about a network that its module does not contain.

    Attributes:
        name: on the command line, in checkpoints and in artifacts.
        factory: ``MODULE:CLASS``, called with the number of classes K, and with ``dilations`` if
            it has any. ``forward`` takes float images (N, 3, H, W), preprocessed, and returns float
            logits (N, K, H, W).
        stride: height and width of an image are multiples of it.
        logits: dotted name of the submodule that computes the logits, before they are enlarged if
            they are.
        inner: dotted names of the submodules whose features an auxiliary loss may classify.
        dilations: of its dilated convolutions in the order of the blocks, as published.
        preprocessing: that of its published checkpoints for any data set, and of training; None:
            training subtracts the mean of the data set.
        published: data set → preprocessing of published checkpoints, where it depends on it.
    """

    name: str
    factory: str
    stride: int
    logits: str
    inner: tuple[str, ...] = ()
    dilations: tuple[int, ...] = ()
    preprocessing: Preprocessing | None = None
    published: Mapping[str, Preprocessing] = field(default_factory=dict)

    def published_preprocessing(self, dataset: str) -> Preprocessing | None:
        """Return the preprocessing of checkpoints that others published; None: not known."""
        return self.preprocessing or self.published.get(dataset)

    def training_preprocessing(self, mean_rgb: Triple) -> Preprocessing:
        """Return the preprocessing that training begins with.

        Args:
            mean_rgb: of the training images, 0…255.
        """
        return self.preprocessing or Preprocessing(mean_rgb)

    def checked_dilations(self, dilations: Sequence[int]) -> tuple[int, ...]:
        """Return ``dilations``, or the published ones for none; raise ``InputError`` if they do
        not fit the network."""
        given = ",".join(map(str, dilations))
        if not dilations:
            return self.dilations
        if len(dilations) != len(self.dilations) or min(dilations) < 1:
            published = ",".join(map(str, self.dilations)) or "none"
            raise InputError(
                f"--dilations {given} for {self.name}",
                f"{len(self.dilations)} numbers of at least 1; published: {published}",
            )
        return tuple(dilations)

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
            inner=("DAB_Block_1", "DAB_Block_2"),
            dilations=(2, 2, 2, 4, 4, 8, 8, 16, 16),
            published={
                "camvid": _DABNET_CAMVID,
                "cityscapes": _DABNET_CITYSCAPES,
                "toy-street": _DABNET_CAMVID,  # it draws CamVid's classes
            },
        ),
        Network(
            "lednet",
            "dabnet.models.lednet:LEDNet",
            stride=8,
            logits="decoder",
            dilations=(1, 2, 5, 9, 2, 5, 9, 17),
            preprocessing=UNIT,
        ),
        Network(
            "erfnet",
            "dabnet.models.erfnet:ERFNet",
            stride=8,
            logits="decoder.output_conv",
            dilations=(2, 4, 8, 16, 2, 4, 8, 16),
            preprocessing=UNIT,
        ),
        Network(
            "enet",
            "dabnet.models.enet:ENet",
            stride=8,
            logits="transposed_conv",
            dilations=(2, 4, 8, 16, 2, 4, 8, 16),
            preprocessing=UNIT,
        ),
    )
}


def network_named(name: str) -> Network:
    """Return the registered network of this name, or raise ``InputError``."""
    if name not in NETWORKS:
        raise InputError(f"unknown model {name!r}", "one of " + ", ".join(NETWORKS))
    return NETWORKS[name]


def build_model(name: str, classes: int, dilations: Sequence[int] = ()) -> nn.Module:
    """Return a freshly initialised network in training mode.

    Args:
        name: of a registered network.
        classes: number of output classes, 2 to 255.
        dilations: of its dilated convolutions, each at least 1; by default the published ones.
    """
    network = network_named(name)
    module, _, factory = network.factory.partition(":")
    if not 2 <= classes <= MOST_CLASSES:
        raise InputError(f"{classes} classes", f"2 to {MOST_CLASSES}")
    build = getattr(importlib.import_module(module), factory)
    checked = network.checked_dilations(dilations)
    built: nn.Module = build(classes, checked) if checked else build(classes)
    return built
