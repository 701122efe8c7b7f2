"""Another network than DABNet: one module, and one line that registers it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dabnet.models import NETWORKS, UNIT, Network

TINY = Network(
    "tiny",
    "tests.support.tiny_network:TinyNet",
    stride=4,
    logits="head.1",
    preprocessing=UNIT,
)


class TinyNet(nn.Module):
    """Logits at a quarter of the size, enlarged twice; its weights are at no place of DABNet's."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 5, stride=4, padding=2)
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(8, classes, 1))

    def forward(self, image: Tensor) -> Tensor:
        half = F.interpolate(self.head(self.body(image)), scale_factor=2, mode="nearest")
        return torch.tanh(F.interpolate(half, scale_factor=2, mode="bilinear"))


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add it to the registry for the time of a test."""
    monkeypatch.setitem(NETWORKS, TINY.name, TINY)
