"""The Pareto front of points in two quantities."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats, where more is better in both, by the first.

    A point is beaten by one that is as good in both and better in one; equal points stay together.
    """
    found: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: points[i], reverse=True):
        best = points[found[-1]] if found else None
        if best is None or points[index][1] > best[1] or points[index] == best:
            found.append(index)
    return found[::-1]
