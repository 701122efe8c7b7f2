"""Axes, scales and markers of the charts: inline SVG that takes its colours from the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.page.markup import Html, join, tag
from bench.record import Report

COLOURS = 7
CHARACTER = 7.2
"""Width of a character of a label (12 px) in px, on the safe side."""

# Outlines within ±1 around the marker's middle, y down; None is a circle.
_SHAPES: tuple[str | None, ...] = (
    None,
    "M-.88 -.88H.88V.88H-.88Z",
    "M0 -1.15L1.05 .8H-1.05Z",
    "M0 -1.25L1.25 0L0 1.25L-1.25 0Z",
    "M0 1.15L1.05 -.8H-1.05Z",
    "M-.4 -1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z",
    "M-.6 -1.05H.6L1.2 0L.6 1.05H-.6L-1.2 0Z",
    "M0 -1.3L.38 -.42L1.3 0L.38 .42L0 1.3L-.38 .42L-1.3 0L-.38 -.42Z",
)


@dataclass(frozen=True, slots=True)
class Style:
    """How a row looks in every chart: its colour says the backend, its shape the variant."""

    colour: int
    shape: int


def styles(report: Report) -> dict[str, Style]:
    """Row name → style."""
    names = list(dict.fromkeys(row.name for row in report.rows))
    backends = list(dict.fromkeys(name.partition("-")[0] for name in names))
    variants = list(dict.fromkeys(name.partition("-")[2] for name in names))
    return {
        name: Style(
            backends.index(name.partition("-")[0]) % COLOURS,
            variants.index(name.partition("-")[2]) % len(_SHAPES),
        )
        for name in names
    }


def marker(style: Style, x: float, y: float, radius: float = 6.0, class_: str = "") -> Html:
    """A row's sign; (x, y) is its middle in px."""
    outline, classes = _SHAPES[style.shape], f"mark c{style.colour} {class_}".strip()
    if outline is None:
        return tag("circle", cx=x, cy=y, r=radius, class_=classes)
    place = f"translate({x:.1f} {y:.1f}) scale({radius:g})"
    return tag("path", d=outline, transform=place, class_=classes)


def key(style: Style) -> Html:
    """A row's sign in running text, without meaning of its own: the name stands beside it."""
    sign = marker(style, 8, 8)
    return tag("svg", sign, viewBox="0 0 16 16", class_="key", aria_hidden="true")


def named(name: str, style: Style) -> Html:
    """A row's name after its sign."""
    return tag("span", key(style), tag("span", name), class_="named")


def drawing(width: float, height: float, label: str, *parts: str | None, class_: str = "") -> Html:
    """A chart of that size in px; ``label`` is read out in its stead."""
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {width:g} {height:g}",
        style=f"max-width:{width:g}px",
        class_=f"chart {class_}".strip(),
        role="img",
        aria_label=label,
    )


def wide_and_narrow(draw: Callable[[int, str], Html]) -> Html:
    """A chart drawn for a desktop and for a phone; the style sheet shows the one that fits.

    Scaled, one drawing would have letters too small for the one or too large for the other.
    """
    return join(draw(1000, "wide"), draw(358, "narrow"))


def label(
    x: float, y: float, text: str, anchor: str = "start", class_: str = "label", title: str = ""
) -> Html:
    """Text at (x, y), its base line; ``title`` says it in full where ``text`` is shortened."""
    full = tag("title", title) if title and title != text else None
    return tag("text", text, full, x=x, y=y, text_anchor=anchor, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Html:
    """A straight line."""
    return tag("path", d=f"M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}", class_=class_)


def polyline(places: Sequence[tuple[float, float]], class_: str) -> Html:
    """Places joined by straight lines."""
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    return tag("path", d=f"M{path}", class_=class_)


@dataclass(frozen=True, slots=True)
class Scale:
    """Values ``low``…``high`` → px ``start``…``end``; a logarithmic one has equal ratios alike."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            value, low, high = (math.log(max(v, 1e-12)) for v in (value, low, high))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self, most: int) -> list[float]:
        """Round values within the scale, at most so many."""
        return self._decades(most) if self.log else self._linear(most)

    def _decades(self, most: int) -> list[float]:
        """Round values of every decade, or powers of ten of every so many."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        found: list[float] = []
        for steps in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1, 3), (1,)):
            found = [m * 10.0**e for e in range(first, last + 1) for m in steps]
            found = [value for value in found if self.low <= value <= self.high]
            if len(found) <= most:
                return found
        return found[:: -(-len(found) // most)]

    def _linear(self, most: int) -> list[float]:
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / most))
        for factor in (1, 2, 5, 10, 20, 50):
            first = math.ceil(self.low / (factor * step) - 1e-9)
            last = math.floor(self.high / (factor * step) + 1e-9)
            if last - first + 1 <= most:
                return [n * factor * step for n in range(first, last + 1)]
        return []


def scale(values: Sequence[float], start: float, end: float, margin: float = 0.08) -> Scale:
    """A scale that holds the values with some room around them.

    It is logarithmic where the largest is over four times the smallest and all are above zero.
    """
    low, high = min(values), max(values)
    if low > 1e-9 and high > 4 * low:
        room = (high / low) ** margin
        return Scale(low / room, high * room, start, end, log=True)
    room = (high - low) * margin or abs(high) * 0.05 or 1.0
    return Scale(low - room, high + room, start, end)


def tick_texts(values: Sequence[float]) -> list[str]:
    """The values with as many decimals as tell them apart."""
    for decimals in range(5):
        texts = [f"{value:.{decimals}f}" for value in values]
        if all(abs(float(t) - v) <= 1e-6 * abs(v) for t, v in zip(texts, values, strict=True)):
            return [text.replace("-", "−") for text in texts]
    return [f"{value:.4g}".replace("-", "−") for value in values]


def x_axis(across: Scale, top: float, bottom: float, title: str, most: int = 7) -> Html:
    """Grid lines, numbers and what they are, below the drawing; it takes 40 px."""
    ticks = across.ticks(most)
    parts = [
        join(
            line(across(value), top, across(value), bottom, "grid"),
            label(across(value), bottom + 17, text, "middle", "tick"),
        )
        for value, text in zip(ticks, tick_texts(ticks), strict=True)
    ]
    name = label(across.end, bottom + 34, title, "end", "title")
    return join(*parts, line(across.start, bottom, across.end, bottom, "axis"), name)


def y_axis(up: Scale, left: float, right: float, title: str, most: int = 6) -> Html:
    """Grid lines and numbers left of the drawing; what they are stands above it."""
    ticks = up.ticks(most)
    parts = [
        join(
            line(left, up(value), right, up(value), "grid"),
            label(left - 7, up(value) + 4, text, "end", "tick"),
        )
        for value, text in zip(ticks, tick_texts(ticks), strict=True)
    ]
    name = label(left - 7 if left < 30 else 2, up.end - 10, title, "start", "title")
    return join(*parts, name)
