from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from dabnet.data.dataset import evenly_spaced


@given(st.integers(1, 500), st.integers(0, 600))
def test_indices_are_distinct_in_order_and_span_the_split(length: int, count: int) -> None:
    found = evenly_spaced(length, count)
    assert len(found) == min(length, count)
    gaps = [b - a for a, b in itertools.pairwise(found)]
    assert all(gap > 0 for gap in gaps)
    assert not gaps or max(gaps) - min(gaps) <= 1
    if len(found) > 1:
        assert (found[0], found[-1]) == (0, length - 1)
    assert all(0 <= index < length for index in found)
