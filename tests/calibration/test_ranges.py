from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration.histogram import StreamingHistogram
from calibration.ranges import (
    LEVELS,
    METHODS,
    check_method,
    expected_squared_error,
    symmetric_range,
)
from dabnet.errors import InputError
from tests.support.histograms import histogram_of

COUNT = 40_000
_random = np.random.default_rng(0)
SAMPLES = {
    "normal": _random.standard_normal(COUNT),
    "uniform": _random.uniform(-3, 3, COUNT),
    "laplace": _random.laplace(size=COUNT),
    "relu": np.maximum(_random.standard_normal(COUNT), 0),
    "heavy tail": _random.standard_t(3, COUNT),
    "outlier": np.append(_random.standard_normal(COUNT), 60.0),
    "offset": _random.normal(100, 5, COUNT),
    "constant": np.full(COUNT, -4.0),
    "image": _random.integers(0, 256, COUNT) - 105.0,
}
SAMPLES = {name: sample.astype(np.float32) for name, sample in SAMPLES.items()}


def true_error(sample: np.ndarray, threshold: float) -> float:
    """Mean squared error of an actual quantisation of the raw values."""
    scale = threshold / LEVELS
    exact = sample.astype(np.float64)
    quantised = np.clip(np.rint(exact / scale), -LEVELS, LEVELS) * scale
    return float(np.mean((quantised - exact) ** 2))


@pytest.mark.parametrize("name", sorted(SAMPLES.keys() - {"constant", "image"}))
def test_mse_threshold_is_as_good_as_brute_force_on_the_samples(name) -> None:
    sample = SAMPLES[name]
    largest = float(np.abs(sample).max())
    best = min(true_error(sample, t) for t in np.linspace(largest / 1000, largest, 1000))
    found = symmetric_range(histogram_of(sample), "mse")
    # "outlier" leaves 30 bins to a standard deviation: that resolution is worth a few per cent.
    assert true_error(sample, found) <= best * (1.05 if name == "outlier" else 1.01)


@pytest.mark.parametrize("name", ["constant", "image"])
def test_mse_threshold_on_discrete_values(name) -> None:
    """Discrete values are not spread within bins, so only the order of the error is promised."""
    sample = SAMPLES[name]
    found = symmetric_range(histogram_of(sample))
    step = float(np.abs(sample).max()) / LEVELS
    assert true_error(sample, found) <= step**2 / 8


@pytest.mark.parametrize("name", sorted(SAMPLES.keys() - {"constant", "image", "outlier"}))
def test_expected_error_equals_the_error_of_the_samples(name) -> None:
    sample = SAMPLES[name]
    largest = float(np.abs(sample).max())
    thresholds = largest * np.array([0.2, 0.35, 0.5, 0.75, 1.0])
    actual = [true_error(sample, t) for t in thresholds]
    expected = expected_squared_error(histogram_of(sample), thresholds)
    np.testing.assert_allclose(expected, actual, rtol=0.05)


def test_without_clipping_the_error_of_a_uniform_tensor_is_a_twelfth_of_the_squared_step() -> None:
    sample = np.linspace(-1, 1, 200_001, dtype=np.float32)[1:-1]
    histogram = histogram_of(sample)
    error = expected_squared_error(histogram, np.array([1.0]))
    np.testing.assert_allclose(error, [(1 / LEVELS) ** 2 / 12], rtol=0.01)


def test_far_above_the_threshold_the_error_is_the_squared_distance() -> None:
    error = expected_squared_error(histogram_of(np.float32([1000.0] * 7)), np.array([1.0]))
    np.testing.assert_allclose(error, [999.0**2], rtol=1e-3)


@pytest.mark.parametrize("percentile", [None, 99.9, 50, 100])
@pytest.mark.parametrize("name", SAMPLES)
def test_percentile_is_numpys_within_a_bin(name, percentile) -> None:
    histogram = histogram_of(SAMPLES[name])
    expected = np.percentile(np.abs(SAMPLES[name]), percentile or 99.99, method="inverted_cdf")
    method = f"percentile:{percentile}" if percentile else "percentile"
    assert abs(symmetric_range(histogram, method) - expected) <= histogram.width
    if percentile == 100:
        assert symmetric_range(histogram, method) == histogram.absolute_maximum


@pytest.mark.parametrize("name", SAMPLES)
def test_minmax_is_exact(name) -> None:
    assert symmetric_range(histogram_of(SAMPLES[name]), "minmax") == np.abs(SAMPLES[name]).max()


def test_one_outlier() -> None:
    """MSE weighs (30 - t)² / N for the outlier against t² / (12 · 127²) for the others."""
    count = 400_000
    histogram = histogram_of(np.linspace(-3, 3, count, dtype=np.float32))
    histogram.update(np.float32([30.0]))
    assert symmetric_range(histogram, "minmax") == 30
    assert symmetric_range(histogram, "percentile") == pytest.approx(3, rel=0.01)
    optimum = 30 / (1 + count / (12 * LEVELS**2))
    assert symmetric_range(histogram, "mse") == pytest.approx(optimum, rel=0.03)


numbers = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e6, 1e6, width=32))


@settings(deadline=None, max_examples=60)
@given(numbers, st.sampled_from(METHODS))
def test_range_lies_between_zero_and_the_largest_value(sample, method) -> None:
    histogram = histogram_of(sample)
    threshold = symmetric_range(histogram, method)
    largest = histogram.absolute_maximum
    assert isinstance(threshold, float)
    assert 0 < threshold <= largest if largest > 0 else threshold == 0


@settings(deadline=None, max_examples=40)
@given(
    hnp.arrays(np.float32, 30, elements=st.floats(-8, 8, width=16)),
    st.integers(-20, 20),
    st.sampled_from(METHODS),
)
def test_range_scales_with_the_values(sample, exponent, method) -> None:
    factor = 2.0**exponent
    threshold = symmetric_range(histogram_of(sample), method)
    scaled = symmetric_range(histogram_of(sample * np.float32(factor)), method)
    assert scaled == threshold * factor


@pytest.mark.parametrize("method", METHODS)
def test_zeros_and_nothing(method) -> None:
    assert symmetric_range(histogram_of(np.zeros(9, np.float32)), method) == 0
    with pytest.raises(InputError, match="without values"):
        symmetric_range(StreamingHistogram(), method)


@pytest.mark.parametrize("method", [*METHODS, "percentile:99.9", "percentile:100"])
def test_known_methods(method) -> None:
    check_method(method)
    assert 0 < symmetric_range(histogram_of(SAMPLES["normal"]), method) < 10


@pytest.mark.parametrize(
    "method",
    ["median", "", "mse:3", "percentile:", "Percentile:50", "percentile:99:9", "percentile:a"],
)
def test_unknown_method_names_the_known_ones(method) -> None:
    known = "minmax, percentile, entropy, mse, or percentile:P with 0 < P <= 100"
    with pytest.raises(InputError, match=f"{method!r}; expected {known}"):
        check_method(method)
    with pytest.raises(InputError, match=f"{method!r}; expected {known}"):
        symmetric_range(histogram_of(np.ones(1, np.float32)), method)


@pytest.mark.parametrize("percentile", ["0", "-1", "100.1", "nan", "inf"])
def test_a_percentile_out_of_range(percentile) -> None:
    with pytest.raises(InputError, match="with 0 < P <= 100"):
        check_method(f"percentile:{percentile}")
