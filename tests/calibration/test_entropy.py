from __future__ import annotations

import math

import numpy as np
import pytest

from calibration.ranges import MAGNITUDES, divergences, entropy_threshold
from tests.support.histograms import histogram_of

COUNT = 200_000


def kl_of_the_slides(counts: np.ndarray, kept: int) -> float:
    """KL(P ‖ Q) of keeping the first ``kept`` bins, as the slides tell it, step by step."""
    reference = counts[:kept].astype(float)
    candidate = np.zeros(kept)
    for level in range(MAGNITUDES):
        bins = [j for j in range(kept) if j * MAGNITUDES // kept == level and counts[j] > 0]
        for j in bins:  # what is empty stays empty
            candidate[j] = sum(counts[k] for k in bins) / len(bins)
    reference[-1] += counts[kept:].sum()
    reference /= reference.sum()
    candidate /= candidate.sum()
    return sum(
        (math.inf if q == 0 else p * math.log(p / q))
        for p, q in zip(reference, candidate, strict=True)
        if p > 0
    )


@pytest.mark.parametrize("bins", [129, 200, 256, 300])
@pytest.mark.parametrize("filled", [0.05, 0.5, 1.0])
def test_divergences_are_those_of_the_slides(bins, filled) -> None:
    random = np.random.default_rng(bins)
    counts = random.poisson(1e4 / np.arange(1, bins + 1) ** 1.5) * (random.random(bins) < filled)
    counts[-1] = 1
    kept, found = divergences(counts)
    literal = {
        i: kl_of_the_slides(counts, i) for i in range(MAGNITUDES, bins + 1) if counts[:i].any()
    }
    assert kept.tolist() == [i for i, value in literal.items() if math.isfinite(value)]
    np.testing.assert_allclose(found, [literal[i] for i in kept.tolist()], rtol=1e-9, atol=1e-12)


def test_by_hand() -> None:
    """256 bins, two a level: one level is uneven, one is half empty, the rest even."""
    counts = np.full(256, 2)
    counts[10:12] = 1, 3
    counts[50:52] = 0, 4
    kept, found = divergences(counts)
    assert kept[-1] == 256
    expected = (1 * math.log(1 / 2) + 3 * math.log(3 / 2)) / 512
    assert found[-1] == pytest.approx(expected, rel=1e-9)
    # 128 bins are a level each: Q is what is kept, P has the 256 others in its last bin too.
    assert kept[0] == 128
    expected = 254 / 512 * math.log((254 / 512) / (254 / 256)) + 258 / 512 * math.log(
        (258 / 512) / (2 / 256)
    )
    assert found[0] == pytest.approx(expected, rel=1e-9)


def test_the_threshold_is_the_end_of_the_last_kept_bin() -> None:
    histogram = histogram_of(np.random.default_rng(0).laplace(size=COUNT))
    counts = histogram.counts[: np.flatnonzero(histogram.counts)[-1] + 1]
    kept, found = divergences(counts)
    best = max(kept[found == found.min()])
    assert entropy_threshold(histogram) == best * histogram.width


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("uniform", 0.99, 1.0), ("laplace", 0.3, 0.9), ("student", 0.001, 0.3)],
)
def test_a_long_tail_is_clipped_and_a_uniform_tensor_is_not(name, low, high) -> None:
    random = np.random.default_rng(1)
    sample = {
        "uniform": random.uniform(-3, 3, COUNT),
        "laplace": random.laplace(size=COUNT),
        "student": random.standard_t(2, COUNT),
    }[name].astype(np.float32)
    share = entropy_threshold(histogram_of(sample)) / np.abs(sample).max()
    assert low <= share <= high


def test_zeros_do_not_matter() -> None:
    """After ReLU half of all values are 0; that says nothing about the other half."""
    sample = np.random.default_rng(2).standard_normal(COUNT)
    sample = sample[sample > 0]
    half_zeros = np.append(sample, np.zeros(len(sample)))
    assert entropy_threshold(histogram_of(half_zeros)) == entropy_threshold(histogram_of(sample))


def test_values_that_fill_few_bins() -> None:
    assert entropy_threshold(histogram_of(np.zeros(5))) == 0
    assert entropy_threshold(histogram_of(np.full(5, -4.25))) == 4.25
    assert entropy_threshold(histogram_of(np.float32([0, 1e-44]))) == np.float32(1e-44)
    levels = np.arange(-127.0, 128)  # already int8: each has a level of its own
    assert entropy_threshold(histogram_of(levels)) == 127
