"""The numbers of a report against numpy, and its intervals against simulated runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.statistics import latency, speed_ratio, student_quantile, verdict
from dabnet.intervals import Interval

Turns = list[NDArray[np.int64]]


# --- latency ----------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(1_000, 10**11), min_size=1, max_size=200), st.integers(1, 16))
def test_latency_is_numpys_percentiles_of_all_samples(samples: list[int], batch: int) -> None:
    ns = np.array(samples, np.int64)
    found = latency(ns, batch)
    for name, rank in (("p50_ms", 50), ("p90_ms", 90), ("p95_ms", 95), ("p99_ms", 99)):
        assert getattr(found, name) == pytest.approx(np.percentile(ns, rank) / 1e6)
    assert found.iqr_ms == pytest.approx(
        (np.percentile(ns, 75) - np.percentile(ns, 25)) / 1e6, abs=1e-6
    )
    assert found.min_ms == min(samples) / 1e6
    assert found.calls == len(samples)
    assert found.fps == pytest.approx(batch * len(samples) / (sum(samples) / 1e9))


def test_a_slow_call_counts_in_the_frame_rate() -> None:
    samples = np.array([1_000_000] * 99 + [901_000_000])  # 99 of 1 ms and one of 0.9 s
    assert latency(samples, 1).fps == pytest.approx(100.0)
    assert latency(samples, 4).fps == pytest.approx(400.0)
    assert latency(samples, 1).p50_ms == 1.0  # FPS is not 1 / p50


# --- the speed ratio --------------------------------------------------------------------------


def simulated(seed: int, slower: float, rounds: int = 10) -> tuple[Turns, Turns]:
    """A reference and a candidate on a machine that drifts, stalls and has two speeds.

    The clock falls by 30 % over the run; 5 % of the calls take five times as long; each turn has
    a level of its own (sigma 1 %), and in three of ten it is 4 % higher (another core).
    """
    random = np.random.default_rng([seed, rounds])
    turns: tuple[Turns, Turns] = ([], [])
    for drift in np.linspace(1, 1.3, rounds):
        for runs, factor in zip(turns, (1.0, slower), strict=True):
            level = drift * factor * np.exp(0.01 * random.standard_normal())
            level *= 1.04 if random.random() < 0.3 else 1.0
            calls = level * (1 + 0.02 * random.standard_normal(30))
            calls[random.random(30) < 0.05] *= 5
            runs.append(np.rint(10e6 * calls).astype(np.int64))
    return turns


def verdicts(slower: float, rounds: int = 10) -> list[str]:
    return [verdict(speed_ratio(*simulated(seed, slower, rounds))) for seed in range(100)]


def test_equal_candidates_are_indistinguishable() -> None:
    """The interval holds 1 as often as it says: measured 93 of 100 (a bootstrap: 89)."""
    assert verdicts(1.0).count("indistinguishable") >= 90


def test_few_rounds_are_not_sure_of_themselves() -> None:
    """With 3 rounds too: measured 96 of 100 (a bootstrap: 79)."""
    assert verdicts(1.0, rounds=3).count("indistinguishable") >= 90


def test_a_slow_down_of_5_percent_is_found() -> None:
    found = verdicts(1.05)
    assert found.count("slower") >= 90  # measured 100
    assert "faster" not in found
    assert verdicts(1 / 1.05).count("faster") >= 90


def test_the_interval_is_around_the_true_ratio() -> None:
    intervals = [speed_ratio(*simulated(seed, 0.5)) for seed in range(100)]
    assert all(interval.low < interval.value < interval.high for interval in intervals)
    assert np.mean([interval.value for interval in intervals]) == pytest.approx(2.0, rel=0.01)
    assert sum(interval.low <= 2.0 <= interval.high for interval in intervals) >= 90
    assert np.median([i.high / i.low for i in intervals]) < 1.06  # and of use


def test_swapping_the_two_inverts_the_interval() -> None:
    first, second = simulated(7, 1.2)
    there, back = speed_ratio(first, second), speed_ratio(second, first)
    assert (back.value, back.low, back.high) == pytest.approx(
        (1 / there.value, 1 / there.high, 1 / there.low)
    )


def test_what_disturbs_both_alike_cancels() -> None:
    first, second = simulated(7, 1.2)
    disturbance = np.random.default_rng(1).uniform(0.5, 20, len(first))
    both = [
        [
            np.rint(turn * 1000 * factor).astype(np.int64)
            for turn, factor in zip(turns, disturbance, strict=True)
        ]
        for turns in (first, second)
    ]
    calm, disturbed = speed_ratio(first, second), speed_ratio(both[0], both[1])
    assert (disturbed.value, disturbed.low, disturbed.high) == pytest.approx(
        (calm.value, calm.low, calm.high), rel=1e-6
    )


def test_rounds_that_do_not_pair_are_an_error() -> None:
    first, second = simulated(0, 1.0)
    with pytest.raises(ValueError, match="zip"):
        speed_ratio(first, second[:-1])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.01, 1.2, "faster"),
        (0.8, 0.99, "slower"),
        (0.9, 1.1, "indistinguishable"),
        (1.0, 1.2, "indistinguishable"),
        (0.8, 1.0, "indistinguishable"),
    ],
)
def test_verdict(low: float, high: float, expected: str) -> None:
    assert verdict(Interval((low + high) / 2, low, high)) == expected


@pytest.mark.parametrize(
    ("freedom", "published"),
    [
        (1, 12.7062),
        (2, 4.3027),
        (3, 3.1824),
        (4, 2.7764),
        (9, 2.2622),
        (10, 2.2281),
        (19, 2.0930),
        (30, 2.0423),
        (120, 1.9799),
        (1000, 1.9623),
    ],
)
def test_student_quantile_is_the_published_one(freedom: int, published: float) -> None:
    """Two-sided 95 %: Abramowitz & Stegun, table 26.10, and 1000 from R."""
    assert student_quantile(freedom) == pytest.approx(published, abs=6e-5)
