"""The loss of the CamVid recipe: cross-entropy, weighted by how rare a class is."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def rarity_weights(class_share: NDArray[np.float64]) -> Tensor:
    """Return 1 / ln(1.10 + share) for each class, float32 (K,) (ENet, section 4; DABNet)."""
    return torch.from_numpy((1 / np.log(1.10 + class_share)).astype(np.float32))


def weighted_cross_entropy(weights: Tensor, ignore: int) -> nn.CrossEntropyLoss:
    """Loss of logits (N, K, H, W) and labels int64 (N, H, W), without the ignored pixels."""
    return nn.CrossEntropyLoss(weight=weights, ignore_index=ignore)
