"""Histograms as files hold them: to the last bit, small, and refused if none can be so."""

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

from calibration.histogram import BINS, HistogramRecord, StreamingHistogram
from dabnet.errors import InputError
from dabnet.records import Codec
from tests.support.histograms import histogram_of

CODEC = Codec(HistogramRecord, "histogram", "a test", "write it again")

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
values = hnp.arrays(np.float32, st.integers(0, 60), elements=finite)


def text_of(counts: np.ndarray) -> str:
    planes = counts.astype("<i8").view(np.uint8).reshape(-1, 8).T
    return base64.b64encode(zlib.compress(planes.tobytes())).decode()


@settings(deadline=None)
@given(values, values)
def test_a_histogram_survives_json_to_the_last_bit(array, later) -> None:
    histogram = histogram_of(array)
    text = CODEC.dump(histogram.record())
    read = CODEC.parse(text, "test").histogram()
    assert read == histogram
    assert CODEC.dump(read.record()) == text
    read.update(later)  # the counts are its own, and can be written to
    assert read == histogram_of(array, later)


def test_what_is_written_is_readable() -> None:
    plain = json.loads(CODEC.dump(histogram_of(np.float32([0.1, -3, 0, 2.5])).record()))
    counts = plain.pop("counts")
    assert plain == {"count": 4, "zeros": 1, "minimum": -3, "maximum": 2.5, "limit": 4}
    assert counts.isascii()
    empty = json.loads(CODEC.dump(StreamingHistogram().record()))
    assert (empty["count"], empty["minimum"], empty["maximum"]) == (0, None, None)


def test_the_text_is_small() -> None:
    """A tensor of many images: counts of some thousands, hardly compressible."""
    array = np.random.default_rng(0).standard_normal(5_000_000).astype(np.float32)
    assert len(CODEC.dump(histogram_of(array).record())) < 4_000


def moved(start: int, to: int) -> str:
    """The counts of ``SAMPLE`` with one value in another bin."""
    counts = SAMPLE.counts.copy()
    counts[start] -= 1
    counts[to] += 1
    return text_of(counts)


SAMPLE = histogram_of(np.float32([0, 0, 0.5, -1.5, 3.0]))  # limit 4: bins 0, 256, 768, 1536
PLAIN = json.loads(CODEC.dump(SAMPLE.record()))
DAMAGE = {
    "count is 6, but the bins add up to 5": {"count": 6},
    "count: expected a valid integer": {"count": "5"},
    "count: expected a valid integer, got true": {"count": True},
    "zeros: expected greater than or equal to 0, got -1": {"zeros": -1},
    "zeros is 3, but the bin that holds them has 2": {"zeros": 3},
    "limit is 3.0, which is not a power of two": {"limit": 3},
    "limit is -4.0": {"limit": -4.0},
    "limit is 0": {"limit": 0},
    "limit is 8.0, but the largest": {"limit": 8.0},
    "limit is 2.0, but the largest": {"limit": 2.0},
    "limit is 1.329227995784916e+36, but": {"limit": 2.0**120},
    "largest |x| is 5.0": {"maximum": 5.0},
    "not JSON: ": {"maximum": float("nan")},
    "not JSON": {"maximum": float("inf")},
    "maximum of 5 values are -1.5 and None": {"maximum": None},
    "exceeds 64 bits": {"maximum": 10**400},
    "minimum 3.5 is above maximum 3.0": {"minimum": 3.5},
    "but all values are in 1.5…3.0": {"minimum": 1.5},
    "value of -1.0 was seen, but its bin is empty": {"minimum": -1.0},
    "value of 3.5 was seen, but its bin is empty": {"maximum": 3.5},
    "a bin beyond the largest": {"counts": moved(256, 2047)},
    "a bin of -1, below 0": {"counts": moved(1, 2)},
    "counts: expected a valid string": {"counts": [1]},
    "counts cannot be unpacked": {"counts": "not base64!"},
    "counts cannot be unpacked: Error -3": {"counts": base64.b64encode(b"x" * 99).decode()},
    "counts does not hold 2048 bins": {"counts": text_of(SAMPLE.counts[:-1])},
    "hold 2048": {"counts": base64.b64encode(zlib.compress(bytes(8 * BINS))[:-1]).decode()},
    "more: unknown key": {"more": 1},
}


def read(**changed: object) -> StreamingHistogram:
    return CODEC.parse(json.dumps(PLAIN | changed), "test").histogram()


@pytest.mark.parametrize("message", DAMAGE)
def test_damage_is_named(message) -> None:
    with pytest.raises(InputError) as error:
        read(**DAMAGE[message])
    assert message in str(error.value)


@pytest.mark.parametrize("key", PLAIN)
def test_a_missing_key_is_named(key) -> None:
    fewer = {name: value for name, value in PLAIN.items() if name != key}
    with pytest.raises(InputError, match=f"{key}: missing"):
        CODEC.parse(json.dumps(fewer), "test")


def test_a_value_beyond_fp32_is_refused() -> None:
    with pytest.raises(ValueError, match="but the largest"):
        HistogramRecord(1, 0, 2.0**200, 2.0**200, 2.0**201, moved_alone(1024))


def moved_alone(at: int) -> str:
    counts = np.zeros(BINS, np.int64)
    counts[at] = 1
    return text_of(counts)


def test_a_text_that_would_unpack_to_much_is_not_unpacked() -> None:
    bomb = base64.b64encode(zlib.compress(bytes(100_000_000))).decode()
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="does not hold 2048 bins"):
            read(counts=bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000


def test_an_empty_one_holds_no_values() -> None:
    assert read() == SAMPLE
    empty = json.loads(CODEC.dump(StreamingHistogram().record()))
    with pytest.raises(InputError, match=r"minimum and maximum of 0 values are 0\.0 and 0\.0"):
        read(**{**empty, "minimum": 0.0, "maximum": 0.0})
    with pytest.raises(InputError, match=r"limit is 1\.0, but"):
        read(**{**empty, "limit": 1.0})
