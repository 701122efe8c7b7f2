from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration.histogram import BINS, NonFiniteError, StreamingHistogram
from tests.support.histograms import histogram_of

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
values = hnp.arrays(np.float32, st.integers(0, 60), elements=finite)


@settings(deadline=None)
@given(values, st.randoms(use_true_random=False), st.integers(1, 8))
def test_result_depends_on_neither_order_nor_batches(array, random, parts) -> None:
    whole = histogram_of(array)
    order = list(range(len(array)))
    random.shuffle(order)
    pieces = np.array_split(array[order], parts)
    assert histogram_of(*pieces) == whole

    merged = StreamingHistogram()
    for piece in pieces:
        merged.merge(histogram_of(piece))
    assert merged == whole


@settings(deadline=None)
@given(values.filter(len))
def test_counts_are_those_of_bins_known_from_the_start(array) -> None:
    histogram = histogram_of(*array)  # one value at a time: as many overflows as possible
    largest = float(np.abs(array).max())
    assert histogram.absolute_maximum == largest
    assert histogram.minimum == array.min()
    assert histogram.maximum == array.max()
    assert histogram.count == len(array)
    assert histogram.zeros == np.sum(array == 0)
    assert largest < histogram.limit
    assert histogram.limit / 2 <= largest or histogram.limit == 2.0**-126
    assert math.frexp(histogram.limit)[0] == 0.5
    expected = np.bincount(
        np.floor(np.abs(array.astype(np.float64)) / histogram.width).astype(int), minlength=BINS
    )
    assert np.array_equal(histogram.counts, expected)


def test_a_power_of_two_falls_into_the_upper_bin() -> None:
    histogram = histogram_of(np.float32([1.0, 2.0, -2.0]))
    assert histogram.limit == 4.0
    assert histogram.counts[BINS // 4] == 1
    assert histogram.counts[BINS // 2] == 2


@pytest.mark.parametrize("largest", [2.0**-126, 2.0**-117, 2.0**-116, 1.0, 2.0**126, 2.0**127])
def test_bins_at_the_ends_of_fp32(largest) -> None:
    """Where a factor of 2**128 would be needed, and where small values fall below FP32."""
    random = np.random.default_rng(0)
    array = (
        random.uniform(-largest, largest, 5000) * 2.0 ** -random.integers(0, 140, 5000)
    ).astype(np.float32)
    histogram = histogram_of(array, np.float32([largest]))
    exact = np.abs(np.append(array, np.float32(largest)).astype(np.float64))
    bins = np.floor(exact / histogram.width).astype(int)
    assert np.array_equal(histogram.counts, np.bincount(bins, minlength=BINS))
    assert histogram.zeros == np.sum(exact == 0)


def test_many_values_of_any_layout_and_type() -> None:
    array = np.random.default_rng(0).standard_normal((3, 70, 500)).astype(np.float32)
    whole = histogram_of(array)
    assert histogram_of(array.transpose(2, 0, 1), array[:0]) == whole
    assert histogram_of(array[:, ::2], array[:, 1::2]) == whole
    assert histogram_of(array.astype(np.float64)) == whole
    half = array.astype(np.float16)
    assert histogram_of(half) == histogram_of(half.astype(np.float32))


def test_empty() -> None:
    histogram = StreamingHistogram()
    assert histogram.count == 0
    assert histogram.absolute_maximum == 0
    other = histogram_of(np.float32([1, -3]))
    histogram.merge(other)
    assert histogram == other
    assert histogram != "a histogram"
    assert "minimum=-3.0, maximum=1.0" in repr(histogram)


def test_the_sign_of_zero_does_not_matter() -> None:
    minimum = histogram_of(np.float32([-0.0])).minimum
    assert math.copysign(1, minimum) == 1


@pytest.mark.parametrize(
    ("bad", "kind"),
    [(math.nan, "NaN"), (math.inf, "Inf"), (-math.inf, "Inf"), (2.0**128, "Inf")],
)
def test_what_is_not_finite_is_refused_and_not_counted(bad, kind) -> None:
    histogram = histogram_of(np.float32([1, 2]))
    with pytest.raises(NonFiniteError) as error:
        histogram.update(np.array([5.0, bad, -7.0]))
    assert error.value.kind == kind
    assert histogram == histogram_of(np.float32([1, 2]))


def test_integers_are_refused() -> None:
    with pytest.raises(TypeError, match="uint8"):
        StreamingHistogram().update(np.zeros(3, np.uint8))


def test_update_needs_constant_memory() -> None:
    array = np.random.default_rng(0).standard_normal(4_000_000).astype(np.float32)  # 16 MB
    histogram = StreamingHistogram()
    histogram.update(array[:1])  # the first one imports what it counts with
    tracemalloc.start()
    try:
        histogram.update(array)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000
