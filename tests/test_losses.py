"""The loss against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dabnet.losses import rarity_weights, weighted_cross_entropy

torch.set_num_threads(1)


def test_weights_are_1_over_ln_of_1_10_plus_the_share() -> None:
    shares = np.array([0.0, 0.25, 0.75])
    weights = rarity_weights(shares)
    assert weights.dtype == torch.float32
    expected = [1 / math.log(1.10 + share) for share in shares]
    assert weights.tolist() == pytest.approx(expected, rel=1e-6)
    assert weights[0].item() == pytest.approx(10.492, abs=1e-3)  # the rarest counts most


def test_loss_is_the_weighted_mean_over_labelled_pixels() -> None:
    torch.manual_seed(0)
    classes, ignore = 4, 11
    logits = torch.randn(2, classes, 3, 5, requires_grad=True)
    labels = torch.randint(0, classes, (2, 3, 5))
    labels[0, :2] = ignore
    weights = rarity_weights(np.array([0.1, 0.2, 0.3, 0.4]))
    loss = weighted_cross_entropy(weights, ignore)(logits, labels)

    total = norm = 0.0
    for n, y, x in np.ndindex(2, 3, 5):
        label = int(labels[n, y, x])
        if label == ignore:
            continue
        scores = [math.exp(v) for v in logits[n, :, y, x].tolist()]
        total -= float(weights[label]) * math.log(scores[label] / sum(scores))
        norm += float(weights[label])
    assert loss.item() == pytest.approx(total / norm, rel=1e-5)

    loss.backward()
    assert logits.grad is not None
    ignored = labels == ignore
    assert not logits.grad.permute(0, 2, 3, 1)[ignored].any()
    assert logits.grad.permute(0, 2, 3, 1)[~ignored].abs().sum(-1).min() > 0
