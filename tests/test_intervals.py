"""Intervals of the mean IoU against the formula by hand and against simulated samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dabnet.intervals import Interval, miou_difference, miou_interval
from dabnet.metrics import Counts


def drawn_counts(seed: int, images: int, right: float, classes: int = 4) -> Counts:
    """Confusion matrices of images that differ much in what they show."""
    random = np.random.default_rng(seed)
    counts = np.zeros((images, classes, classes), np.int64)
    for image in counts:
        for truth, pixels in enumerate(random.integers(200, 3000, classes)):
            wrong = (1 - right * random.uniform(0.8, 1.0)) / (classes - 1)
            shares = np.full(classes, wrong)
            shares[truth] = 1 - wrong * (classes - 1)
            image[truth] = random.multinomial(pixels, shares)
    return counts


def degraded(counts: Counts, share: float) -> Counts:
    """Move a share of each image's hits of class 0 to class 1."""
    worse = counts.copy()
    moved = np.rint(counts[:, 0, 0] * share).astype(np.int64)
    worse[:, 0, 0] -= moved
    worse[:, 0, 1] += moved
    return worse


def iou_by_hand(counts: Counts) -> float:
    total = counts.sum(0)
    scores = []
    for k in range(len(total)):
        union = total[k].sum() + total[:, k].sum() - total[k, k]
        scores.append(total[k, k] / union)
    return float(np.mean(scores))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40))
def test_identical_candidates_differ_by_exactly_nothing(seed: int, images: int) -> None:
    counts = drawn_counts(seed, images, 0.7)
    assert miou_difference(counts, counts.copy()) == Interval(0.0, 0.0, 0.0)


def test_a_known_difference_is_found_because_it_is_paired() -> None:
    reference = drawn_counts(0, 40, 0.7)
    candidate = degraded(reference, 0.02)
    value = iou_by_hand(candidate) - iou_by_hand(reference)
    found = miou_difference(candidate, reference)
    assert found.value == pytest.approx(value)
    assert found.low < value < found.high < 0
    # The images differ by far more than the two networks: unpaired, it would drown.
    alone = miou_interval(reference)
    assert alone.high - alone.low > 5 * (found.high - found.low)
    back = miou_difference(reference, candidate)
    assert (back.value, back.low, back.high) == pytest.approx((-value, -found.high, -found.low))


def test_the_interval_of_one_candidate() -> None:
    """It holds the value of the whole population for about 95 % of the samples drawn from it."""
    population = drawn_counts(1, 2000, 0.7)
    truth = iou_by_hand(population)
    random = np.random.default_rng(2)
    held = 0
    for _ in range(40):
        sample = population[random.choice(2000, 50, replace=False)]
        found = miou_interval(sample)
        assert found.value == pytest.approx(iou_by_hand(sample))
        held += found.low <= truth <= found.high
    assert held >= 34  # measured 37 of 40
    same = np.repeat(population[:1], 20, axis=0)
    assert miou_interval(same).low == pytest.approx(miou_interval(same).high)
