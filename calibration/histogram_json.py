"""A histogram's fields as plain JSON values, and back, checked.

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
