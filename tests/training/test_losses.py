"""The loss against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dabnet.training.losses import FocalLoss, build_loss, rarity_weights
from dabnet.training.recipes import LOSSES

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
    parts = build_loss("ce", weights, ignore)(logits, labels)
    loss = parts[0] / parts[1]

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


def published_ohem(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, ignore: int
) -> float:
    """ProbOhemCrossEntropy2d of the published code, pixel by pixel."""
    flat = labels.flatten().tolist()
    scores = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1]).double()
    logs = scores.log_softmax(1)
    valid = [place for place, label in enumerate(flat) if label != ignore]
    probability = {place: math.exp(logs[place, flat[place]]) for place in valid}
    least = len(flat) // 16
    kept = valid
    if least <= len(valid):
        ordered = sorted(probability.get(place, 1.0) for place in range(len(flat)))
        threshold = max(0.7, ordered[least - 1]) if least else 0.7
        kept = [place for place in valid if probability[place] <= threshold]
    norm = sum(float(weights[flat[place]]) for place in kept)
    total = sum(-float(weights[flat[p]]) * float(logs[p, flat[p]]) for p in kept)
    return total / norm


@pytest.mark.parametrize(
    ("sharpness", "ignored_rows"),
    [
        (1.0, 1),  # most pixels are hard
        (9.0, 0),  # few are: the threshold rises until a sixteenth is kept
        (4.0, 7),
        (4.0, 8),  # fewer labelled pixels than must be kept: all of them count
    ],
)
def test_ohem_keeps_the_pixels_that_the_published_code_keeps(
    sharpness: float, ignored_rows: int
) -> None:
    torch.manual_seed(1)
    classes, ignore = 5, 255
    labels = torch.randint(0, classes, (2, 8, 12))
    logits = torch.randn(2, classes, 8, 12) + sharpness * torch.nn.functional.one_hot(
        labels, classes
    ).permute(0, 3, 1, 2)
    labels[:, :ignored_rows] = ignore
    labels[1, 7, 3] = 2  # one pixel is always labelled
    weights = rarity_weights(np.array([0.1, 0.2, 0.3, 0.2, 0.2]))
    parts = build_loss("ohem", weights, ignore)(logits.requires_grad_(), labels)
    loss = parts[0] / parts[1]
    assert loss.item() == pytest.approx(
        published_ohem(logits.detach(), labels, weights, ignore), rel=1e-5
    )
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_logits_that_are_no_numbers_show_in_the_loss(name: str) -> None:
    logits = torch.randn(1, 3, 8, 8)
    logits[0, :, :4] = math.nan
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    total, weight = build_loss(name, torch.ones(3), 255)(logits, labels)
    assert math.isnan(total / weight)


def a_case(seed: int, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (2, K, 2, 3), labels with ignored pixels (255), class weights."""
    torch.manual_seed(seed)
    labels = torch.randint(0, classes, (2, 2, 3))
    labels[0, 0] = 255
    return torch.randn(2, classes, 2, 3), labels, torch.tensor([0.5, 2.0, 3.0])


def test_focal_loss_weighs_each_pixel_by_its_surprise() -> None:
    logits, labels, weights = a_case(1)
    total, weight = build_loss("focal", weights, 255)(logits, labels)
    expected = norm = 0.0
    for n, y, x in np.ndindex(2, 2, 3):
        if (label := int(labels[n, y, x])) != 255:
            p = float(logits[n, :, y, x].softmax(0)[label])
            expected -= float(weights[label]) * (1 - p) ** 2 * math.log(p)
            norm += float(weights[label])
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert weight.item() == pytest.approx(norm, rel=1e-6)
    plain = FocalLoss(weights, 255, gamma=0.0)(logits, labels)
    for ours, theirs in zip(plain, build_loss("ce", weights, 255)(logits, labels), strict=True):
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_label_smoothing_is_cross_entropy_with_a_softened_truth() -> None:
    logits, labels, weights = a_case(2)
    total, weight = build_loss("ce", weights, 255, 1, 0.3)(logits, labels)
    expected = 0.0
    for n, y, x in np.ndindex(2, 2, 3):
        if (label := int(labels[n, y, x])) != 255:
            truth = torch.full((3,), 0.3 / 3)
            truth[label] += 0.7
            expected -= float((truth * weights * logits[n, :, y, x].log_softmax(0)).sum())
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert weight.item() == build_loss("ce", weights, 255)(logits, labels)[1].item()


def lovasz_extension(errors: list[float], truth: list[bool]) -> float:
    """Of the Jaccard loss, by its definition (Berman et al. 2018, definition 3): the sum over
    sorted errors m of m_i times what mispredicting the i-th pixel as well adds to the loss."""

    def loss(wrong: set[int]) -> float:
        members = {pixel for pixel, holds in enumerate(truth) if holds}
        return len(wrong) / len(members | wrong)

    order = sorted(range(len(errors)), key=lambda pixel: -errors[pixel])
    return sum(
        errors[pixel] * (loss({*order[: i + 1]}) - loss({*order[:i]}))
        for i, pixel in enumerate(order)
    )


@pytest.mark.parametrize("seed", range(4))
def test_lovasz_softmax_is_the_extension_of_the_jaccard_loss(seed: int) -> None:
    values, labels, weights = a_case(seed)
    logits = values.clone().requires_grad_()
    total, images = build_loss("lovasz", weights, 255)(logits, labels)
    expected = 0.0
    for n in range(2):
        pixels = [(y, x) for y, x in np.ndindex(2, 3) if labels[n, y, x] != 255]
        probability = {at: values[n, :, at[0], at[1]].softmax(0) for at in pixels}
        present = sorted({int(labels[n, y, x]) for y, x in pixels})
        losses = []
        for label in present:
            truth = [int(labels[n, y, x]) == label for y, x in pixels]
            errors = [
                abs(holds - float(probability[at][label]))
                for holds, at in zip(truth, pixels, strict=True)
            ]
            losses.append(lovasz_extension(errors, truth))
        expected += sum(losses) / len(losses)
    assert images.item() == 2
    assert total.item() == pytest.approx(expected, rel=1e-5)
    total.backward()
    assert logits.grad is not None
    assert not logits.grad.permute(0, 2, 3, 1)[labels == 255].any()


def test_an_image_without_labels_counts_in_no_lovasz_loss() -> None:
    logits, labels, weights = a_case(5)
    labels[1] = 255
    loss = build_loss("lovasz", weights, 255)
    both, one = loss(logits, labels), loss(logits[:1], labels[:1])
    assert [float(value) for value in both] == [float(value) for value in one]
    total, images = loss(logits.requires_grad_(), torch.full_like(labels, 255))
    total.backward()
    assert (float(total.detach()), float(images)) == (0.0, 0.0)
