from __future__ import annotations

import base64
import json
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration.histogram import BINS, StreamingHistogram

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
values = hnp.arrays(np.float32, st.integers(0, 60), elements=finite)


def histogram_of(*arrays: np.ndarray) -> StreamingHistogram:
    histogram = StreamingHistogram()
    for array in arrays:
        histogram.update(array)
    return histogram


def text_of(counts: np.ndarray) -> str:
    planes = counts.astype("<i8").view(np.uint8).reshape(-1, 8).T
    return base64.b64encode(zlib.compress(planes.tobytes())).decode()


@settings(deadline=None)
@given(values, values)
def test_a_histogram_survives_json_to_the_last_bit(array, later) -> None:
    histogram = histogram_of(array)
    text = json.dumps(histogram.to_plain(), allow_nan=False)
    read = StreamingHistogram.from_plain(json.loads(text))
    assert read == histogram
    assert json.dumps(read.to_plain(), allow_nan=False) == text
    read.update(later)  # the counts are its own, and can be written to
    assert read == histogram_of(array, later)


def test_what_is_written_is_readable() -> None:
    plain = histogram_of(np.float32([0.1, -3, 0, 2.5])).to_plain()
    assert plain["count"] == 4
    assert plain["zeros"] == 1
    assert plain["minimum"] == -3
    assert plain["maximum"] == 2.5
    assert plain["limit"] == 4
    empty = StreamingHistogram().to_plain()
    assert (empty["count"], empty["minimum"], empty["maximum"]) == (0, None, None)


def test_the_text_is_small() -> None:
    """A tensor of many images: counts of some thousands, hardly compressible."""
    array = np.random.default_rng(0).standard_normal(5_000_000).astype(np.float32)
    assert len(json.dumps(histogram_of(array).to_plain())) < 4_000


def moved(start: int, to: int) -> str:
    """The counts of ``SAMPLE`` with one value in another bin."""
    counts = SAMPLE.counts
    counts[start] -= 1
    counts[to] += 1
    return text_of(counts)


SAMPLE = histogram_of(np.float32([0, 0, 0.5, -1.5, 3.0]))  # limit 4: bins 0, 256, 768, 1536
PLAIN = SAMPLE.to_plain()
DAMAGE = {
    "count is 6, but the bins add up to 5": {"count": 6},
    "count is '5', not a whole number": {"count": "5"},
    "count is True, not a whole number": {"count": True},
    "zeros is -1": {"zeros": -1},
    "zeros is 3, but the first bin, which holds them, has 2": {"zeros": 3},
    "limit is 3, which is no power of two": {"limit": 3},
    "limit is -4.0": {"limit": -4.0},
    "limit is 0": {"limit": 0},
    "limit is 8.0, but the largest": {"limit": 8.0},
    "limit is 2.0, but the largest": {"limit": 2.0},
    "largest |x| is 5.0": {"maximum": 5.0},
    "maximum is nan": {"maximum": float("nan")},
    "maximum is inf": {"maximum": float("inf")},
    "maximum is None": {"maximum": None},
    "maximum is 1000": {"maximum": 10**400},
    "minimum 3.5 is above maximum 3.0": {"minimum": 3.5},
    "but all values are in 1.5…3.0": {"minimum": 1.5},
    "value of -1.0 was seen, but its bin is empty": {"minimum": -1.0},
    "value of 3.5 was seen, but its bin is empty": {"maximum": 3.5},
    "a bin beyond the largest": {"counts": moved(256, 2047)},
    "a bin of -1, below 0": {"counts": moved(1, 2)},
    "counts is list, not a string": {"counts": [1]},
    "counts cannot be unpacked": {"counts": "not base64!"},
    "counts cannot be unpacked: Error -3": {"counts": base64.b64encode(b"x" * 99).decode()},
    "counts does not hold 2048 bins": {"counts": text_of(SAMPLE.counts[:-1])},
    "hold 2048": {"counts": base64.b64encode(zlib.compress(bytes(8 * BINS))[:-1]).decode()},
    "the keys count, zeros": {"more": 1},
}


@pytest.mark.parametrize("message", DAMAGE)
def test_damage_is_named(message) -> None:
    with pytest.raises(ValueError) as error:
        StreamingHistogram.from_plain(PLAIN | DAMAGE[message])
    assert message in str(error.value)


def test_a_text_that_would_unpack_to_much_is_not_unpacked() -> None:
    bomb = base64.b64encode(zlib.compress(bytes(100_000_000))).decode()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="does not hold 2048 bins"):
            StreamingHistogram.from_plain(PLAIN | {"counts": bomb})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_no_dictionary_at_all_and_an_empty_one_with_values() -> None:
    assert StreamingHistogram.from_plain(dict(PLAIN)) == SAMPLE
    for wrong in (None, [], {}, "text"):
        with pytest.raises(ValueError, match="exactly the keys"):
            StreamingHistogram.from_plain(wrong)
    empty = StreamingHistogram().to_plain()
    with pytest.raises(ValueError, match="minimum and maximum are not null"):
        StreamingHistogram.from_plain(empty | {"minimum": 0.0, "maximum": 0.0})
    with pytest.raises(ValueError, match=r"limit is 1\.0, but"):
        StreamingHistogram.from_plain(empty | {"limit": 1.0})
