"""The losses of the recipes: cross-entropy, weighted by how rare a class is, and its OHEM form.

A loss is returned as two sums, which processes that share a batch add up: the loss of the batch is
``total / weight`` over the pixels of all processes.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

OHEM_THRESHOLD = 0.7
OHEM_SHARE = 16
"""At least one pixel in this many of a batch is kept."""


def rarity_weights(class_share: NDArray[np.float64]) -> Tensor:
    """Return 1 / ln(1.10 + share) for each class, float32 (K,) (ENet, section 4; DABNet)."""
    return torch.from_numpy((1 / np.log(1.10 + class_share)).astype(np.float32))


def build_loss(name: str, weights: Tensor, ignore: int, processes: int = 1) -> nn.Module:
    """Return the loss of a recipe: logits (N, K, H, W), labels int64 (N, H, W) → (total, weight).

    Args:
        name: ``ce`` or ``ohem``.
        weights: of the classes, float32 (K,).
        ignore: label of the pixels that are not counted.
        processes: number that share the batch; OHEM chooses among the pixels of all.
    """
    if name == "ohem":
        return OhemCrossEntropy(weights, ignore, processes)
    return WeightedCrossEntropy(weights, ignore)


class WeightedCrossEntropy(nn.Module):
    """Cross-entropy of each pixel times its class's weight, summed, and the sum of the weights."""

    weights: Tensor

    def __init__(self, weights: Tensor, ignore: int) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.ignore = ignore

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        total = F.cross_entropy(
            logits, labels, self.weights, ignore_index=self.ignore, reduction="sum"
        )
        valid = labels != self.ignore
        weight = (self.weights[labels.masked_fill(~valid, 0)] * valid).sum()
        return total, weight


class OhemCrossEntropy(WeightedCrossEntropy):
    """The same over the hardest pixels of a batch (online hard example mining).

    A pixel is hard where its true class has a probability of at most 0.7. Where these are fewer
    than a sixteenth of the batch's pixels, the threshold rises until so many are kept
    (Reagan1311/DABNet, ``ProbOhemCrossEntropy2d`` with ``min_kept = batch * h * w // 16``).
    """

    def __init__(self, weights: Tensor, ignore: int, processes: int = 1) -> None:
        super().__init__(weights, ignore)
        self.processes = processes

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        kept = labels.masked_fill(~self._hard(logits, labels), self.ignore)
        return super().forward(logits, kept)

    @torch.no_grad()
    def _hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Which pixels are kept, bool (N, H, W)."""
        valid = labels != self.ignore
        least = self.processes * labels.numel() // OHEM_SHARE
        index = labels.masked_fill(~valid, 0).unsqueeze(1)
        true_probability = logits.float().softmax(1).gather(1, index).squeeze(1)
        true_probability = true_probability.masked_fill(~valid, 2.0)
        if least > 0:
            threshold = self._smallest(true_probability, least).clamp_min(OHEM_THRESHOLD)
        else:
            threshold = torch.full((), OHEM_THRESHOLD, device=logits.device)
        # Not "<=": a probability that is no number must stay in the loss, where it is noticed.
        return valid & ~(true_probability > threshold)

    def _smallest(self, probability: Tensor, rank: int) -> Tensor:
        """Return the value of that rank, from 1, among the pixels of all processes."""
        flat = probability.flatten()
        if self.processes > 1:
            # No process holds more than ``rank`` of the ``rank`` smallest.
            mine = _smallest(flat, min(rank, flat.numel()))
            parts = [torch.empty_like(mine) for _ in range(self.processes)]
            dist.all_gather(parts, mine)
            flat = torch.cat(parts)
        return _smallest(flat, rank).max()


def _smallest(values: Tensor, count: int) -> Tensor:
    # On a GPU, kthvalue of one long row runs in a single block; topk does not.
    return values.topk(count, largest=False, sorted=False).values
