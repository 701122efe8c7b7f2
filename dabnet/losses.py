"""The losses of the recipes: cross-entropy, weighted by how rare a class is, and its OHEM form."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

OHEM_THRESHOLD = 0.7
OHEM_SHARE = 16
"""At least one pixel in this many of a batch is kept."""


def rarity_weights(class_share: NDArray[np.float64]) -> Tensor:
    """Return 1 / ln(1.10 + share) for each class, float32 (K,) (ENet, section 4; DABNet)."""
    return torch.from_numpy((1 / np.log(1.10 + class_share)).astype(np.float32))


def build_loss(name: str, weights: Tensor, ignore: int) -> nn.Module:
    """Return the loss of a recipe: logits (N, K, H, W), labels int64 (N, H, W) → a scalar.

    Args:
        name: ``ce`` or ``ohem``.
        weights: of the classes, float32 (K,).
        ignore: label of the pixels that do not count.
    """
    if name == "ohem":
        return OhemCrossEntropy(weights, ignore)
    return nn.CrossEntropyLoss(weight=weights, ignore_index=ignore)


class OhemCrossEntropy(nn.Module):
    """Weighted cross-entropy over the hardest pixels of a batch (online hard example mining).

    A pixel is hard where its true class has a probability of at most 0.7. Where these are fewer
    than a sixteenth of the batch's pixels, the threshold rises until so many are kept
    (Reagan1311/DABNet, ``ProbOhemCrossEntropy2d`` with ``min_kept = batch * h * w // 16``).
    """

    weights: Tensor

    def __init__(self, weights: Tensor, ignore: int) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.ignore = ignore

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        kept = labels.masked_fill(~self._hard(logits, labels), self.ignore)
        return F.cross_entropy(logits, kept, self.weights, ignore_index=self.ignore)

    @torch.no_grad()
    def _hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Which pixels are kept, bool (N, H, W)."""
        valid = labels != self.ignore
        least = labels.numel() // OHEM_SHARE
        if least > int(valid.sum()):
            return valid
        index = labels.masked_fill(~valid, 0).unsqueeze(1)
        true_probability = logits.float().softmax(1).gather(1, index).squeeze(1)
        true_probability = true_probability.masked_fill(~valid, 1.0)
        threshold = torch.tensor(OHEM_THRESHOLD, device=logits.device)
        if least > 0:
            threshold = torch.maximum(threshold, true_probability.flatten().kthvalue(least).values)
        return valid & (true_probability <= threshold)
