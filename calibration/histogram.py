"""The distribution of |x| of one tensor, in constant memory, whatever the batches were.

Calibrators that keep each activation need gigabytes for a handful of images. Here 2,048 counters
cover [0, limit). When a value does not fit, neighbouring bins are added in pairs and the limit
doubles. Because the limit is always a power of two, each bin edge of a coarse histogram is an edge
of every finer one, so the counts are those of a histogram that had known the final limit from the
start: the result depends on the values alone, not on their order or on the batch split.
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

BINS = 2048
_LOG2_BINS = 11

# The smallest limit is FP32's smallest normal number: what lies below is zero to any int8 scale.
_MIN_EXPONENT = -126
_MAX_EXPONENT = 128  # every finite FP32 number is below 2**128

# Values binned at a time. Each step gives up Python's lock and takes it back: with fewer values a
# step, two threads would wait for each other more than they count.
_CHUNK = 1 << 18


class NonFiniteError(ValueError):
    """A NaN or an infinity was met.

    Attributes:
        kind: ``NaN`` or ``Inf``.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(f"{kind} among the values of a histogram")
        self.kind = kind


@dataclass(slots=True, eq=False)
class StreamingHistogram:
    """Counts of |x| in 2,048 equal bins over [0, limit), and what bins cannot tell.

    Two histograms are equal if they saw the same values, in whatever order and batches.

    Attributes:
        counts: int64, (2048,); bin i counts ``i * width <= |x| < (i+1) * width``.
        exponent: the limit is 2**exponent, the smallest power of two above each |x|, >= 2**-126.
        zeros: how many values are exactly 0, as half of them are after ReLU; bin 0 counts them too.
        minimum, maximum: the smallest and the largest x (signed); +inf and -inf before the first.
    """

    counts: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(BINS, dtype=np.int64), repr=False
    )
    exponent: int = _MIN_EXPONENT
    zeros: int = 0
    minimum: float = math.inf
    maximum: float = -math.inf

    @property
    def count(self) -> int:
        """Number of values seen."""
        return int(self.counts.sum())

    @property
    def limit(self) -> float:
        """Upper end of the last bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def width(self) -> float:
        """Width of a bin, a power of two."""
        return math.ldexp(1.0, self.exponent - _LOG2_BINS)

    @property
    def absolute_maximum(self) -> float:
        """The largest |x|, exactly; 0 before the first value."""
        return max(-self.minimum, self.maximum, 0.0)

    def update(self, array: NDArray[np.floating[Any]]) -> None:
        """Count the values of ``array``: any shape, float16, float32 or float64 in FP32's range.

        Raises:
            NonFiniteError: a value is NaN, infinite or beyond FP32; nothing has been counted.
            TypeError: the array is not of a floating type.
        """
        if not np.issubdtype(array.dtype, np.floating):
            raise TypeError(f"expected a float array, got {array.dtype}")
        if array.size == 0:
            return
        # + 0.0 turns -0.0 into 0.0: which of the two min() returns depends on the order.
        low, high = float(array.min()) + 0.0, float(array.max()) + 0.0
        if math.isnan(low) or math.isnan(high):
            raise NonFiniteError("NaN")
        if max(-low, high) >= math.ldexp(1.0, _MAX_EXPONENT):
            raise NonFiniteError("Inf")
        self.minimum = min(self.minimum, low)
        self.maximum = max(self.maximum, high)
        self._widen(_exponent_above(max(-low, high)))
        self._count(array.ravel(order="K"))

    def merge(self, other: StreamingHistogram) -> None:
        """Add what ``other`` saw, as if its values had been given to ``update`` here."""
        self._widen(other.exponent)
        self.counts += _coarsened(other.counts, self.exponent - other.exponent)
        self.zeros += other.zeros
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)

    def record(self) -> HistogramRecord:
        """Return the histogram as plain values for a file."""
        low, high = (self.minimum, self.maximum) if self.count else (None, None)
        return HistogramRecord(self.count, self.zeros, low, high, self.limit, _packed(self.counts))

    def check_extent(self) -> None:
        """Raise ValueError unless minimum and maximum fit zeros and bins; not for an empty one."""
        low, high = self.minimum, self.maximum
        if low > high:
            raise ValueError(f"minimum {low} is above maximum {high}")
        if self.zeros > 0 and not low <= 0 <= high:
            raise ValueError(f"zeros is {self.zeros}, but all values are in {low}…{high}")
        for value in (low, high):
            if self.counts[int(abs(value) / self.width)] == 0:
                raise ValueError(f"a value of {value} was seen, but its bin is empty")
        largest = self.absolute_maximum
        if np.flatnonzero(self.counts)[-1] != int(largest / self.width):
            raise ValueError(f"a bin beyond the largest |x|, {largest}, is not empty")

    def _count(self, flat: NDArray[np.floating[Any]]) -> None:
        """Add the values of ``flat``, all below the limit, to bins and zeros."""
        import torch  # its bincount takes int32 and gives up Python's lock; numpy's does neither

        # The product with a power of two is exact, or below 1 where FP32 underflows: truncation
        # finds the bin. FP32 is half the work, but its largest power of two is 2**127.
        exponent = _LOG2_BINS - self.exponent
        exact = flat.dtype.itemsize <= 4 and exponent < _MAX_EXPONENT
        size = min(flat.size, _CHUNK)
        positions = np.empty(size, dtype=np.float32 if exact else np.float64)
        bins = np.empty(size, dtype=np.int32)
        zero = np.empty(size, dtype=np.bool_)
        for start in range(0, flat.size, _CHUNK):
            chunk = flat[start : start + _CHUNK]
            used = slice(0, chunk.size)
            np.multiply(chunk, 2.0**exponent, out=positions[used], dtype=positions.dtype)
            bins[used] = positions[used]
            np.abs(bins[used], out=bins[used])
            self.counts += torch.bincount(torch.from_numpy(bins[used]), minlength=BINS).numpy()
            self.zeros += int(np.count_nonzero(np.equal(chunk, 0, out=zero[used])))

    def _widen(self, exponent: int) -> None:
        """Raise the limit to 2**exponent if it is lower."""
        if exponent > self.exponent:
            self.counts = _coarsened(self.counts, exponent - self.exponent)
            self.exponent = exponent

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StreamingHistogram):
            return NotImplemented
        ours, theirs = (
            (h.exponent, h.zeros, h.minimum, h.maximum, h.counts.tobytes()) for h in (self, other)
        )
        return ours == theirs

    __hash__ = None  # type: ignore[assignment]  # it changes with every update


@dataclass(frozen=True, slots=True)
class HistogramRecord:
    """A histogram as a file holds it.

    Attributes:
        count, zeros: how many values were seen, and how many of them were exactly 0.
        minimum, maximum: of all values; None if there were none, since JSON has no infinity.
        limit: a power of two.
        counts: the bins as little-endian int64, byte 0 of each, then byte 1 of each and so on (the
            upper bytes are nearly all 0, so they vanish), deflated (zlib), in base64: 1 to 3 KB.

    Raises:
        ValueError: no histogram can look like this; the message says why.
    """

    count: Annotated[int, Ge(0)]
    zeros: Annotated[int, Ge(0)]
    minimum: float | None
    maximum: float | None
    limit: float
    counts: str

    def __post_init__(self) -> None:
        self.histogram()

    def histogram(self) -> StreamingHistogram:
        """Return the histogram that this describes, equal to it to the last bit."""
        counts = _unpacked(self.counts)
        total = sum(counts.tolist())  # Python's sum: int64 could overflow on a damaged file
        fraction, exponent = math.frexp(self.limit)
        if total != self.count:
            raise ValueError(f"count is {self.count}, but the bins add up to {total}")
        if self.zeros > counts[0]:
            raise ValueError(f"zeros is {self.zeros}, but the bin that holds them has {counts[0]}")
        if fraction != 0.5:
            raise ValueError(f"limit is {self.limit}, which is not a power of two")
        low, high = self.minimum, self.maximum
        if (total == 0) != (low is None) or (total == 0) != (high is None):
            raise ValueError(f"minimum and maximum of {total} values are {low} and {high}")
        made = StreamingHistogram(counts, exponent - 1, self.zeros)
        if low is not None and high is not None:
            made.minimum, made.maximum = low, high
        largest = made.absolute_maximum
        if made.exponent != _exponent_above(largest) or made.exponent > _MAX_EXPONENT:
            raise ValueError(f"limit is {self.limit}, but the largest |x| is {largest}")
        if total > 0:
            made.check_extent()
        return made


def _packed(counts: NDArray[np.int64]) -> str:
    planes = counts.astype("<i8").view(np.uint8).reshape(-1, 8).T
    return base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode("ascii")


def _unpacked(text: str) -> NDArray[np.int64]:
    try:
        deflated = base64.b64decode(text, validate=True)
        stream = zlib.decompressobj()
        # A damaged or hostile string must not unpack to gigabytes.
        raw = stream.decompress(deflated, BINS * 8 + 1)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise ValueError(f"counts cannot be unpacked: {error}") from error
    if len(raw) != BINS * 8 or not stream.eof or stream.unused_data:
        raise ValueError(f"counts does not hold {BINS} bins")
    planes = np.frombuffer(raw, dtype=np.uint8).reshape(8, BINS)
    counts = np.ascontiguousarray(planes.T).view("<i8").reshape(BINS).astype(np.int64)
    if counts.min() < 0:
        raise ValueError(f"counts has a bin of {counts.min()}, below 0")
    return counts


def _exponent_above(magnitude: float) -> int:
    """The smallest e >= -126 with ``magnitude < 2**e``."""
    return max(math.frexp(magnitude)[1], _MIN_EXPONENT) if magnitude > 0 else _MIN_EXPONENT


def _coarsened(counts: NDArray[np.int64], doublings: int) -> NDArray[np.int64]:
    """The counts after the limit was doubled ``doublings`` times: int64, (2048,)."""
    group = 1 << min(doublings, _LOG2_BINS)
    coarse = np.zeros_like(counts)
    coarse[: BINS // group] = counts.reshape(-1, group).sum(axis=1)
    return coarse
