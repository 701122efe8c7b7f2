"""Accuracy against speed: the chart from which an artifact is picked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from bench.page.markup import Html, join, tag
from bench.page.svg import (
    CHARACTER,
    Scale,
    Style,
    drawing,
    label,
    line,
    marker,
    polyline,
    scale,
    wide_and_narrow,
    x_axis,
    y_axis,
)
from bench.record import Row
from bench.report.figures import elided, percent, rate
from dabnet.intervals import Interval

_SIGN = 15
"""Width in px of the sign before a name."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in px."""


@dataclass(frozen=True, slots=True)
class Point:
    """One row: frames a second (across) and mIoU in 0…1 (up)."""

    name: str
    fps: Interval
    miou: Interval


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats, where more is better in both, by the first.

    A point is beaten by one that is as good in both and better in one; equal points stay together.
    """
    front: list[int] = []
    best: tuple[float, float] | None = None  # (second, first) of the best so far
    for index in sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1])):
        first, second = points[index]
        if best is None or second > best[0] or (second, first) == best:
            front.append(index)
            best = (second, first)
    return front[::-1]


def chart_scope(rows: Sequence[Row]) -> str:
    """The scope whose FPS are compared: ``host`` where any row has it, else ``device``."""
    hosts = (timing for row in rows if (timing := row.timing("host")))
    return "host" if any(timing.fps for timing in hosts) else "device"


def scatter_points(rows: Sequence[Row]) -> list[Point]:
    """The rows of one setting that have both an accuracy and FPS in ``chart_scope``."""
    scope, found = chart_scope(rows), []
    for row in rows:
        timing, score = row.timing(scope), row.accuracy.score if row.accuracy else None
        if timing and timing.fps and score:
            found.append(Point(row.name, timing.fps, score.miou))
    return found


def front_of(points: Sequence[Point]) -> list[Point]:
    """The points on the Pareto front, the slowest first."""
    return [points[i] for i in pareto_front([(p.fps.value, p.miou.value) for p in points])]


def scatter(points: Sequence[Point], styles: dict[str, Style], scope: str) -> Html:
    """The chart of one setting, for a wide and for a narrow page."""
    return wide_and_narrow(partial(_scatter, points, styles, scope))


def _scatter(
    points: Sequence[Point], styles: dict[str, Style], scope: str, width: int, class_: str
) -> Html:
    narrow = width < 600
    height = max(340 if narrow else 400, 34 * len(points))
    left, top, right, bottom = 46, 34, width - 14, height - 42
    fps = [v for p in points for v in (p.fps.low, p.fps.value, p.fps.high)]
    miou = [100 * v for p in points for v in (p.miou.low, p.miou.value, p.miou.high)]
    across, up = scale(fps, left, right, 0.12), scale(miou, bottom, top)
    front = front_of(points)
    bars = [_error_bars(point, across, up, styles[point.name]) for point in points]
    marks = [
        tag(
            "g",
            tag("title", _sentence(point)),
            marker(styles[point.name], across(point.fps.value), up(100 * point.miou.value), 7),
        )
        for point in points
    ]
    said = "; ".join(map(_sentence, points))
    best = ", ".join(point.name for point in front)
    return drawing(
        width,
        height,
        f"mIoU against frames a second ({scope}). {said}. On the Pareto front: {best}.",
        x_axis(across, top, bottom, f"frames/s, scope {scope}", 4 if narrow else 9),
        y_axis(up, left, right, "mIoU %", 6),
        polyline(_stairs(front, across, up, left, bottom), "front"),
        *bars,
        *marks,
        *_labels(points, styles, across, up, (left, top, right, bottom), 22 if narrow else 46),
        class_=class_,
    )


def _sentence(point: Point) -> str:
    return (
        f"{point.name}: {rate(point.fps.value)} FPS"
        f" [{rate(point.fps.low)}, {rate(point.fps.high)}],"
        f" mIoU {percent(point.miou.value)} %"
        f" [{percent(point.miou.low)}, {percent(point.miou.high)}]"
    )


def _stairs(
    front: Sequence[Point], across: Scale, up: Scale, left: float, bottom: float
) -> list[tuple[float, float]]:
    """Corners in px of the line below and left of which every artifact is beaten."""
    stairs: list[tuple[float, float]] = []
    x = left
    for point in front:
        y = up(100 * point.miou.value)
        stairs += [(x, y), (across(point.fps.value), y)]
        x = across(point.fps.value)
    return [*stairs, (x, bottom)]


def _error_bars(point: Point, across: Scale, up: Scale, style: Style) -> Html:
    x, y = across(point.fps.value), up(100 * point.miou.value)
    low, high = across(point.fps.low), across(point.fps.high)
    floor, roof = up(100 * point.miou.low), up(100 * point.miou.high)
    class_ = f"bar s{style.colour}"
    caps = [line(end, y - 4, end, y + 4, class_) for end in (low, high)]
    caps += [line(x - 4, end, x + 4, end, class_) for end in (floor, roof)]
    return join(line(low, y, high, y, class_), line(x, floor, x, roof, class_), *caps)


def _labels(
    points: Sequence[Point],
    styles: dict[str, Style],
    across: Scale,
    up: Scale,
    frame: Box,
    length: int,
) -> list[Html]:
    """Names with their signs beside the points, with a leader where they had to move away."""
    places = [(across(p.fps.value), up(100 * p.miou.value)) for p in points]
    crowded: list[Box] = [(x - 9, y - 9, x + 9, y + 9) for x, y in places]
    lines = _lines(points, across, up, frame)
    drawn = []
    for point, (x, y) in sorted(zip(points, places, strict=True), key=lambda pair: pair[1]):
        text = elided(point.name, length)
        box = _place(x, y, _SIGN + CHARACTER * len(text), crowded, lines, frame)
        crowded.append(box)
        left, top, right, bottom = box
        if abs((top + bottom) / 2 - y) > 16 or left > x + 20 or right < x - 20:
            end = min(max(x, left), right), min(max(y, top), bottom)
            drawn.append(line(x, y, *end, "leader"))
        drawn.append(marker(styles[point.name], left + 6, (top + bottom) / 2, 4))
        drawn.append(label(left + _SIGN, bottom - 4, text, title=point.name))
    return drawn


def _lines(points: Sequence[Point], across: Scale, up: Scale, frame: Box) -> list[Box]:
    """Error bars and stairs, as boxes: a name had better not lie on them."""
    boxes: list[Box] = []
    for point in points:
        x, y = across(point.fps.value), up(100 * point.miou.value)
        boxes.append((x - 2, up(100 * point.miou.high), x + 2, up(100 * point.miou.low)))
        boxes.append((across(point.fps.low), y - 2, across(point.fps.high), y + 2))
    stairs = _stairs(front_of(points), across, up, frame[0], frame[3])
    for (x1, y1), (x2, y2) in pairwise(stairs):
        boxes.append((min(x1, x2) - 2, min(y1, y2) - 2, max(x1, x2) + 2, max(y1, y2) + 2))
    return boxes


def _place(
    x: float, y: float, width: float, crowded: Sequence[Box], lines: Sequence[Box], frame: Box
) -> Box:
    """The best place of 16 px height for a name of ``width``: near (x, y), on nothing else.

    Names and signs must not be covered; to lie on a line costs as much as to move a little.
    """
    best, least = (x + 12, y - 8, x + 12 + width, y + 8), float("inf")
    for rise in (8 * step for step in range(-26, 27)):
        for start in (x + 12, x - 12 - width, x - width / 2, x + 40, x - 40 - width):
            box = (start, y - 8 + rise, start + width, y + 8 + rise)
            inside = frame[0] < box[0] and box[2] < frame[2]
            if not inside or box[1] < frame[1] or box[3] > frame[3]:
                continue
            away = max(box[0] - x, x - box[2], 0.0)
            cost = abs(rise) + 0.5 * away
            cost += 20 * sum(_overlap(box, other) for other in crowded)
            cost += 0.4 * sum(_overlap(box, other) for other in lines)
            if cost < least:
                best, least = box, cost
    return best


def _overlap(a: Box, b: Box) -> float:
    """Area in px² that both cover."""
    across = min(a[2], b[2]) - max(a[0], b[0])
    down = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, across) * max(0.0, down)
