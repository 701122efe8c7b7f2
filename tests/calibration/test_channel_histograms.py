from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration.channel_histograms import ChannelHistograms
from calibration.histogram import NonFiniteError, StreamingHistogram

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
shapes = st.tuples(st.integers(0, 5), st.just(3), st.integers(1, 4), st.integers(1, 4))
tensors = hnp.arrays(np.float32, shapes, elements=finite)


def channels_of(*arrays: np.ndarray) -> ChannelHistograms:
    channels = ChannelHistograms()
    for array in arrays:
        channels.update(array)
    return channels


def histogram_of(array: np.ndarray) -> StreamingHistogram:
    histogram = StreamingHistogram()
    histogram.update(array)
    return histogram


@settings(deadline=None)
@given(tensors, st.integers(1, 4))
def test_channels_add_up_to_the_tensor_in_whatever_batches(array, parts) -> None:
    channels = channels_of(array)
    assert channels.whole() == histogram_of(array)
    for index, channel in enumerate(channels.channels):
        assert channel == histogram_of(array[:, index])

    pieces = np.array_split(array, parts)
    assert channels_of(*pieces[::-1]) == channels
    merged = ChannelHistograms()
    for piece in pieces:
        merged.merge(channels_of(piece))
    assert merged == channels


def test_channels_are_told_apart() -> None:
    array = np.float32([[1, 2], [1, 4]])  # (N, C)
    found = channels_of(array)
    assert [channel.maximum for channel in found.channels] == [1, 4]
    assert found != channels_of(array[:, ::-1])
    assert found.whole() == channels_of(array[:, ::-1]).whole()
    assert found != "channels"
    assert "2 channels" in repr(found)


def test_another_number_of_channels_is_refused() -> None:
    channels = channels_of(np.ones((1, 3, 2), np.float32))
    with pytest.raises(ValueError, match="expected 3 channels, got 2"):
        channels.update(np.ones((1, 2, 3), np.float32))
    with pytest.raises(ValueError, match="expected 3 channels, got 2"):
        channels.merge(channels_of(np.ones((1, 2), np.float32)))
    with pytest.raises(ValueError, match=r"expected \(N, C, ...\), got the shape \(3,\)"):
        channels.update(np.ones(3, np.float32))


def test_what_is_not_finite_is_not_counted_in_any_channel() -> None:
    channels = channels_of(np.ones((1, 3), np.float32))
    with pytest.raises(NonFiniteError):
        channels.update(np.float32([[5, 5, math.nan]]))
    assert channels == channels_of(np.ones((1, 3), np.float32))
