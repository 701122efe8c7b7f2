"""How |x| of each channel of one tensor is distributed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.histogram import StreamingHistogram, finite_extent


class ChannelHistograms:
    """A ``StreamingHistogram`` of each channel, axis 1 of (N, C, ...); 16 KB a channel.

    Two are equal if they saw the same values in the same channels, in whatever order and batches.
    """

    __slots__ = ("_channels",)
    __hash__ = None  # type: ignore[assignment]  # it changes with every update

    def __init__(self) -> None:
        self._channels: tuple[StreamingHistogram, ...] = ()

    @property
    def channels(self) -> tuple[StreamingHistogram, ...]:
        """The histograms themselves, (C,); empty before the first value."""
        return self._channels

    def update(self, array: NDArray[np.floating[Any]]) -> None:
        """Count the values of ``array``: (N, C, ...), float16, float32 or float64 in FP32's range.

        Raises:
            NonFiniteError: a value is NaN, infinite or beyond FP32; nothing has been counted.
            TypeError: the array is not of a floating type.
            ValueError: it has no axis 1, or another number of channels than those before.
        """
        if array.ndim < 2:
            raise ValueError(f"expected (N, C, ...), got the shape {array.shape}")
        if array.size == 0:
            return
        finite_extent(array)
        self._require(array.shape[1])
        for channel, histogram in enumerate(self._channels):
            histogram.update(array[:, channel])

    def merge(self, other: ChannelHistograms) -> None:
        """Add what ``other`` saw, as if its values had been given to ``update`` here.

        Raises:
            ValueError: it has another number of channels.
        """
        if other._channels:
            self._require(len(other._channels))
            for mine, theirs in zip(self._channels, other._channels, strict=True):
                mine.merge(theirs)

    def whole(self) -> StreamingHistogram:
        """Return the histogram of all channels together, as if it had seen the whole tensor."""
        total = StreamingHistogram()
        for histogram in self._channels:
            total.merge(histogram)
        return total

    def _require(self, channels: int) -> None:
        """Make that many histograms, or see that there are as many."""
        if not self._channels:
            self._channels = tuple(StreamingHistogram() for _ in range(channels))
        if len(self._channels) != channels:
            raise ValueError(f"expected {len(self._channels)} channels, got {channels}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChannelHistograms):
            return NotImplemented
        return self._channels == other._channels

    def __repr__(self) -> str:
        return f"ChannelHistograms({len(self._channels)} channels, {self.whole()!r})"
