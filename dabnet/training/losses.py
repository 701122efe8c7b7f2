"""The losses of the recipes: cross-entropy, its OHEM and focal forms, and Lovász-softmax.

A loss is returned as two sums, which processes that share a batch add up: the loss of the batch is
``total / weight`` over the pixels (of Lovász-softmax, the images) of all processes. That, and
labels to ignore, are why the last two are written here: kornia.losses has neither for
Lovász-softmax, and segmentation_models_pytorch.losses averages over the batch it sees.
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

FOCUS = 2.0
"""Gamma of the focal loss."""


def rarity_weights(class_share: NDArray[np.float64], rarity: float = 1.10) -> Tensor:
    """Return 1 / ln(rarity + share) for each class, float32 (K,).

    The rarity is 1.02 in ENet, section 4, and 1.10 in the published training of DABNet.
    """
    return torch.from_numpy((1 / np.log(rarity + class_share)).astype(np.float32))


def build_loss(
    name: str, weights: Tensor, ignore: int, processes: int = 1, label_smoothing: float = 0.0
) -> nn.Module:
    """Return the loss of a recipe: logits (N, K, H, W), labels int64 (N, H, W) → (total, weight).

    Args:
        name: one of ``dabnet.training.recipes.LOSSES``.
        weights: of the classes, float32 (K,).
        ignore: label of the pixels that are not counted.
        processes: number that share the batch; OHEM chooses among the pixels of all.
        label_smoothing: of ``ce``: the share of the truth that is spread over all classes.
    """
    if name == "ohem":
        return OhemCrossEntropy(weights, ignore, processes)
    if name == "focal":
        return FocalLoss(weights, ignore)
    if name == "lovasz":
        return LovaszSoftmax(ignore)
    return WeightedCrossEntropy(weights, ignore, label_smoothing)


class WeightedCrossEntropy(nn.Module):
    """Cross-entropy of each pixel times its class's weight, summed, and the sum of the weights."""

    weights: Tensor

    def __init__(self, weights: Tensor, ignore: int, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.ignore, self.label_smoothing = ignore, label_smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        total = F.cross_entropy(
            logits,
            labels,
            self.weights,
            ignore_index=self.ignore,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        return total, self.weight_of(labels)

    def weight_of(self, labels: Tensor) -> Tensor:
        """Return the sum of the weights of the pixels that count."""
        valid = labels != self.ignore
        return (self.weights[labels.masked_fill(~valid, 0)] * valid).sum()


class FocalLoss(WeightedCrossEntropy):
    """The same with each pixel's loss times (1 - p)^gamma, p the probability of its true class
    (Lin et al. 2017, arXiv 1708.02002, section 3.2); gamma 0 is cross-entropy."""

    def __init__(self, weights: Tensor, ignore: int, gamma: float = FOCUS) -> None:
        super().__init__(weights, ignore)
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        surprise = F.cross_entropy(logits, labels, ignore_index=self.ignore, reduction="none")
        weights = self.weights[labels.masked_fill(labels == self.ignore, 0)]
        total = (weights * (1 - (-surprise).exp()) ** self.gamma * surprise).sum()
        return total, self.weight_of(labels)


class LovaszSoftmax(nn.Module):
    """Lovász-softmax: a convex surrogate of 1 - IoU, averaged over the classes that are in an
    image (Berman et al. 2018, arXiv 1705.08790, equations 8, 9 and 11).

    Summed over images, and their number; one without a labelled pixel counts in neither.
    """

    def __init__(self, ignore: int) -> None:
        super().__init__()
        self.ignore = ignore

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        total, images = 0 * logits.sum(), 0
        for probability, truth in zip(logits.softmax(1).flatten(2), labels.flatten(1), strict=True):
            present = truth[truth != self.ignore].unique()
            if len(present):
                total, images = total + self._of_image(probability, truth, present), images + 1
        return total, torch.tensor(float(images), device=logits.device)

    def _of_image(self, probability: Tensor, labels: Tensor, present: Tensor) -> Tensor:
        """Probabilities (K, pixels), labels (pixels,) and the P classes in them → loss ()."""
        is_class = (labels == present[:, None]).to(probability.dtype)  # (P, pixels)
        # An ignored pixel has no error: it comes last, where it adds nothing.
        errors = (is_class - probability[present]).abs() * (labels != self.ignore)
        errors, order = errors.sort(1, descending=True)
        hits = is_class.gather(1, order)
        size = hits.sum(1, keepdim=True)
        # 1 - IoU where all pixels up to this one, and no other, are wrong.
        jaccard = 1 - (size - hits.cumsum(1)) / (size + (1 - hits).cumsum(1))
        return (errors * jaccard.diff(dim=1, prepend=torch.zeros_like(size))).sum(1).mean()


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
