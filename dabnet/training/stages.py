"""The encoder of a network alone: on labels of its size, or as a classifier of pictures.

The stages are those of the public code of ERFNet and LEDNet (``train/main.py``, ``imagenet/`` and
``imagenet-pretrain/``); a network has them if it has ``encoder_logits``.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dabnet.errors import InputError
from dabnet.models import NETWORKS, build_model

ENCODER = "encoder."
"""Begins the names of an encoder's tensors."""


class EncoderAlone(nn.Module):
    """The encoder of a network with its own outputs: (N, 3, H, W) → (N, K, H/stride, W/stride)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        # mypy: a module's methods of its own are unknown to it.
        logits: Tensor = self.network.encoder_logits(image)  # type: ignore[operator]
        return logits


class EncoderClassifier(nn.Module):
    """One class for each image, by the mean of the encoder's features: (N, 3, H, W) → (N, K, 1, 1).

    The names of its state are those of the public classifiers: ``features.encoder.…`` and
    ``classifier.linear.…``.
    """

    def __init__(self, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.features = nn.ModuleDict({"encoder": encoder})
        outputs = encoder.output_conv
        assert isinstance(outputs, nn.Conv2d)
        self.classifier = nn.ModuleDict({"linear": nn.Linear(outputs.in_channels, classes)})
        del encoder.output_conv

    def forward(self, image: Tensor) -> Tensor:
        features = self.features["encoder"](image)  # (N, C, H/stride, W/stride)
        logits: Tensor = self.classifier["linear"](features.mean((2, 3)))
        return logits[..., None, None]


def encoder_alone(model: str, classes: int, dilations: Sequence[int] = ()) -> nn.Module:
    """Return a new network of which only the encoder, with its outputs, takes gradients."""
    network = build_model(model, classes, dilations)
    for name, weight in network.named_parameters():
        weight.requires_grad_(name.startswith(ENCODER))
    return network


def encoder_classifier(model: str, classes: int, dilations: Sequence[int] = ()) -> nn.Module:
    """Return a new classifier of any number of classes with the encoder of a network."""
    network = build_model(model, 2, dilations)
    return EncoderClassifier(network.get_submodule("encoder"), classes)


def check_has_encoder(model: str, stage: str) -> None:
    """Raise an InputError unless the network can be trained in stages."""
    has = [name for name in NETWORKS if hasattr(build_model(name, 2), "encoder_logits")]
    if model not in has:
        raise InputError(
            f"--stage {stage} for {model}, whose encoder has no outputs",
            f"--model {' or '.join(has)}",
        )
