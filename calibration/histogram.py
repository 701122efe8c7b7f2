"""How |x| of one tensor is distributed, in constant memory and whatever the batches were.

Calibrators that keep each activation need gigabytes for a handful of images. Here 2,048 counters
cover [0, limit). When a value does not fit, neighbouring bins are added in pairs and the limit
doubles. Because the limit is always a power of two, each bin edge of a coarse histogram is an edge
of every finer one, so the counts are those of a histogram that had known the final limit from the
start: the result depends on the values alone, not on their order or on the batch split.

A histogram's fields as plain JSON values, and back, checked.

    {"count": 6, "zeros": 1, "minimum": -3.0, "maximum": 2.5, "limit": 4.0, "counts": "eNpj…"}

``counts`` is text: the bins as little-endian int64, byte 0 of each, then byte 1 of each and so on
(the upper bytes are nearly all 0, so they vanish), deflated (zlib), in base64: some 1 to 3 KB.
A histogram without values has ``null`` as its minimum and maximum; JSON has no infinity.
"""

from __future__ import annotations

import base64
import binascii
import math
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEYS = ("count", "zeros", "minimum", "maximum", "limit", "counts")


@dataclass(frozen=True, slots=True)
class Fields:
    """What a histogram is made of.

    Attributes:
        counts: int64, (bins,), each >= 0.
        exponent: the limit is 2**exponent.
        zeros: how many values were exactly 0.
        minimum, maximum: of all values; +inf and -inf if there were none.
    """

    counts: NDArray[np.int64]
    exponent: int
    zeros: int
    minimum: float
    maximum: float


def plain(fields: Fields) -> dict[str, object]:
    """Return the fields as a dictionary that ``json`` writes as valid JSON, exactly."""
    empty = fields.minimum > fields.maximum
    return {
        "count": int(fields.counts.sum()),
        "zeros": fields.zeros,
        "minimum": None if empty else fields.minimum,
        "maximum": None if empty else fields.maximum,
        "limit": math.ldexp(1.0, fields.exponent),
        "counts": _text(fields.counts),
    }


def fields_of(values: object, bins: int) -> Fields:
    """Return the fields from what ``plain`` made, or raise ValueError saying what is wrong.

    Only single values are checked here and that they add up; whether the limit suits the largest
    value is the histogram's to judge.
    """
    if not isinstance(values, Mapping) or set(values) != set(KEYS):
        raise ValueError(f"a histogram has exactly the keys {', '.join(KEYS)}")
    counts = _counts(values["counts"], bins)
    count, zeros = (_whole(values[key], key) for key in ("count", "zeros"))
    if sum(counts.tolist()) != count:  # Python's sum: int64 could overflow on a damaged file
        raise ValueError(f"count is {count}, but the bins add up to {sum(counts.tolist())}")
    if zeros > counts[0]:
        raise ValueError(f"zeros is {zeros}, but the first bin, which holds them, has {counts[0]}")
    fraction, exponent = math.frexp(_number(values["limit"], "limit"))
    if fraction != 0.5:
        raise ValueError(f"limit is {values['limit']}, which is no power of two")
    if count == 0:
        if values["minimum"] is not None or values["maximum"] is not None:
            raise ValueError("count is 0, but minimum and maximum are not null")
        return Fields(counts, exponent - 1, zeros, math.inf, -math.inf)
    minimum, maximum = (_number(values[key], key) for key in ("minimum", "maximum"))
    if minimum > maximum:
        raise ValueError(f"minimum {minimum} is above maximum {maximum}")
    if zeros > 0 and not minimum <= 0 <= maximum:
        raise ValueError(f"zeros is {zeros}, but all values are in {minimum}…{maximum}")
    return Fields(counts, exponent - 1, zeros, minimum, maximum)


def _text(counts: NDArray[np.int64]) -> str:
    planes = counts.astype("<i8").view(np.uint8).reshape(-1, 8).T
    return base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode("ascii")


def _counts(text: object, bins: int) -> NDArray[np.int64]:
    if not isinstance(text, str):
        raise ValueError(f"counts is {type(text).__name__}, not a string")
    try:
        deflated = base64.b64decode(text, validate=True)
        stream = zlib.decompressobj()
        # A damaged or hostile string must not unpack to gigabytes.
        raw = stream.decompress(deflated, bins * 8 + 1)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise ValueError(f"counts cannot be unpacked: {error}") from error
    if len(raw) != bins * 8 or not stream.eof or stream.unused_data:
        raise ValueError(f"counts does not hold {bins} bins")
    planes = np.frombuffer(raw, dtype=np.uint8).reshape(8, bins)
    counts = np.ascontiguousarray(planes.T).view("<i8").reshape(bins).astype(np.int64)
    if counts.min() < 0:
        raise ValueError(f"counts has a bin of {counts.min()}, below 0")
    return counts


def _whole(value: object, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{key} is {value!r}, not a whole number >= 0")
    return value


def _number(value: object, key: str) -> float:
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not abs(value) <= sys.float_info.max  # NaN compares false, a long integer is no float
    ):
        raise ValueError(f"{key} is {value!r}, not a finite number")
    return float(value) + 0.0  # -0.0 becomes 0.0, as in the histogram


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


class StreamingHistogram:
    """Counts of |x| in 2,048 equal bins over [0, limit), with the true minimum and maximum
    and the number of zeros.

    Two histograms are equal if they saw the same values, in whatever order and batches.
    """

    __slots__ = ("_counts", "_exponent", "_maximum", "_minimum", "_zeros")
    __hash__ = None  # type: ignore[assignment]  # it changes with every update

    def __init__(self) -> None:
        self._counts = np.zeros(BINS, dtype=np.int64)
        self._exponent = _MIN_EXPONENT
        self._zeros = 0
        self._minimum = math.inf
        self._maximum = -math.inf

    @property
    def counts(self) -> NDArray[np.int64]:
        """A copy of the bins: int64, (2048,); bin i counts ``i * width <= |x| < (i+1) * width``."""
        counts: NDArray[np.int64] = self._counts.copy()
        return counts

    @property
    def count(self) -> int:
        """Number of values seen."""
        return int(self._counts.sum())

    @property
    def zeros(self) -> int:
        """How many of them are exactly 0, as half of them are after ReLU; bin 0 holds them too."""
        return self._zeros

    @property
    def limit(self) -> float:
        """Upper end of the last bin: the smallest power of two above each |x|, at least 2**-126."""
        return math.ldexp(1.0, self._exponent)

    @property
    def width(self) -> float:
        """Width of a bin, a power of two."""
        return math.ldexp(1.0, self._exponent - _LOG2_BINS)

    @property
    def minimum(self) -> float:
        """The smallest x (signed); +inf before the first value."""
        return self._minimum

    @property
    def maximum(self) -> float:
        """The largest x (signed); -inf before the first value."""
        return self._maximum

    @property
    def absolute_maximum(self) -> float:
        """The largest |x|, exactly; 0 before the first value."""
        return max(-self._minimum, self._maximum, 0.0)

    def update(self, array: NDArray[np.floating[Any]]) -> None:
        """Count the values of ``array``: any shape, float16, float32 or float64 in FP32's range.

        Raises:
            NonFiniteError: a value is NaN, infinite or beyond FP32; nothing has been counted.
            TypeError: the array is not of a floating type.
        """
        if array.size == 0:
            return
        low, high = finite_extent(array)
        self._minimum = min(self._minimum, low)
        self._maximum = max(self._maximum, high)
        self._widen(_exponent_above(max(-low, high)))
        self._count(array.ravel(order="K"))

    def merge(self, other: StreamingHistogram) -> None:
        """Add what ``other`` saw, as if its values had been given to ``update`` here."""
        self._widen(other._exponent)
        self._counts += _coarsened(other._counts, self._exponent - other._exponent)
        self._zeros += other._zeros
        self._minimum = min(self._minimum, other._minimum)
        self._maximum = max(self._maximum, other._maximum)

    def to_plain(self) -> dict[str, object]:
        """Return the histogram as a dictionary for ``json``; see ``calibration.histogram``."""
        return plain(
            Fields(self._counts, self._exponent, self._zeros, self._minimum, self._maximum)
        )

    @classmethod
    def from_plain(cls, values: object) -> StreamingHistogram:
        """Return the histogram that ``to_plain`` described, equal to it to the last bit.

        Raises:
            ValueError: no histogram can look like this; the message says what is wrong.
        """
        fields = fields_of(values, BINS)
        histogram = cls()
        histogram._counts = fields.counts
        histogram._exponent = fields.exponent
        histogram._zeros = fields.zeros
        histogram._minimum = fields.minimum
        histogram._maximum = fields.maximum
        histogram._check()
        return histogram

    def _count(self, flat: NDArray[np.floating[Any]]) -> None:
        """Add the values of ``flat``, all below the limit, to bins and zeros."""
        import torch  # its bincount takes int32 and gives up Python's lock; numpy's does neither

        # The product with a power of two is exact, or below 1 where FP32 underflows: truncation
        # finds the bin. FP32 is half the work, but its largest power of two is 2**127.
        exponent = _LOG2_BINS - self._exponent
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
            self._counts += torch.bincount(torch.from_numpy(bins[used]), minlength=BINS).numpy()
            self._zeros += int(np.count_nonzero(np.equal(chunk, 0, out=zero[used])))

    def _check(self) -> None:
        """Raise ValueError if limit, bins, minimum and maximum do not go together."""
        expected = _exponent_above(self.absolute_maximum)
        if self._exponent != expected or expected > _MAX_EXPONENT:
            raise ValueError(
                f"limit is {self.limit}, but the largest |x| is {self.absolute_maximum}"
            )
        if self.count == 0:
            return
        for value in (self._minimum, self._maximum):
            if self._counts[int(abs(value) / self.width)] == 0:
                raise ValueError(f"a value of {value} was seen, but its bin is empty")
        if np.flatnonzero(self._counts)[-1] != int(self.absolute_maximum / self.width):
            raise ValueError(f"a bin beyond the largest |x|, {self.absolute_maximum}, is not empty")

    def _widen(self, exponent: int) -> None:
        """Raise the limit to 2**exponent if it is lower."""
        if exponent > self._exponent:
            self._counts = _coarsened(self._counts, exponent - self._exponent)
            self._exponent = exponent

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StreamingHistogram):
            return NotImplemented
        return (
            self._exponent == other._exponent
            and self._zeros == other._zeros
            and self._minimum == other._minimum
            and self._maximum == other._maximum
            and bool(np.array_equal(self._counts, other._counts))
        )

    def __repr__(self) -> str:
        return (
            f"StreamingHistogram(count={self.count}, minimum={self.minimum:g}, "
            f"maximum={self.maximum:g}, limit={self.limit:g})"
        )


def finite_extent(array: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Return the smallest and the largest value, which are finite and within FP32's range.

    Raises:
        NonFiniteError: a value is NaN, infinite or beyond FP32.
        TypeError: the array is not of a floating type.
    """
    if not np.issubdtype(array.dtype, np.floating):
        raise TypeError(f"expected a float array, got {array.dtype}")
    # + 0.0 turns -0.0 into 0.0: which of the two min() returns depends on the order.
    low, high = float(array.min()) + 0.0, float(array.max()) + 0.0
    if math.isnan(low) or math.isnan(high):
        raise NonFiniteError("NaN")
    if max(-low, high) >= math.ldexp(1.0, _MAX_EXPONENT):
        raise NonFiniteError("Inf")
    return low, high


def _exponent_above(magnitude: float) -> int:
    """The smallest e >= -126 with ``magnitude < 2**e``."""
    return max(math.frexp(magnitude)[1], _MIN_EXPONENT) if magnitude > 0 else _MIN_EXPONENT


def _coarsened(counts: NDArray[np.int64], doublings: int) -> NDArray[np.int64]:
    """The counts after the limit was doubled ``doublings`` times: int64, (2048,)."""
    group = 1 << min(doublings, _LOG2_BINS)
    coarse = np.zeros_like(counts)
    coarse[: BINS // group] = counts.reshape(-1, group).sum(axis=1)
    return coarse
