"""The Pareto front against its definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dabnet.pareto import pareto_front

SHARES = st.integers(0, 5).map(float)


@given(st.lists(st.tuples(SHARES, SHARES), max_size=12))
def test_the_front_holds_exactly_the_points_that_none_beats(
    points: list[tuple[float, float]],
) -> None:
    def beaten(point: tuple[float, float]) -> bool:
        return any(o[0] >= point[0] and o[1] >= point[1] and o != point for o in points)

    front = pareto_front(points)
    assert sorted(front) == [n for n, point in enumerate(points) if not beaten(point)]
    assert [points[n][0] for n in front] == sorted(points[n][0] for n in front)
