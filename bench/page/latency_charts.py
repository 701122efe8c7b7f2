"""How the latencies of single calls are distributed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bench.page.markup import Html, tag
from bench.page.svg import (
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
from bench.record import Row, Timing
from bench.report.figures import elided, milliseconds
from dabnet.runtime.runner import SCOPES

Milliseconds = NDArray[np.float64]

_STRIP = 120
"""Samples of a row that are drawn one by one; the slowest are always among them."""


def counted_ms(timing: Timing) -> Milliseconds:
    """Latency of each call of the counted turns in ms, sorted."""
    samples = [turn.samples_ns for turn in timing.turns if turn.counted]
    return np.sort(np.concatenate([np.array(s, np.float64) for s in samples])) / 1e6


def boxes(rows: Sequence[Row], styles: dict[str, Style], scope: str) -> Html | None:
    """Box and strip of each row of a setting in one scope; None where no row has it."""
    timed = [(row, timing) for row in rows if (timing := row.timing(scope))]
    if not timed:
        return None
    return wide_and_narrow(
        partial(_boxes, [(row.name, counted_ms(t)) for row, t in timed], styles, scope)
    )


def _boxes(
    rows: Sequence[tuple[str, Milliseconds]],
    styles: dict[str, Style],
    scope: str,
    width: int,
    class_: str,
) -> Html:
    narrow = width < 600
    pitch, top = (58 if narrow else 46), 12
    left, right = (10, width - 10) if narrow else (250, width - 20)
    bottom = top + pitch * len(rows)
    across = scale([v for _, ms in rows for v in (ms[0], ms[-1])], left, right, 0.04)
    drawn = [
        _box(name, ms, styles[name], across, top + pitch * (n + 0.64), 10 if narrow else 240)
        for n, (name, ms) in enumerate(rows)
    ]
    title = f"ms a call, scope {scope}{', logarithmic' if across.log else ''}"
    said = "; ".join(f"{name}: {_percentiles(ms)}" for name, ms in rows)
    return drawing(
        width,
        bottom + 42,
        f"Latencies, scope {scope}. {said}.",
        x_axis(across, top, bottom, title, 5 if narrow else 10),
        *drawn,
        class_=class_,
    )


def _percentiles(ms: Milliseconds) -> str:
    p50, p95, p99 = np.percentile(ms, (50, 95, 99))
    middle, late, last = (milliseconds(float(p)) for p in (p50, p95, p99))
    return f"p50 {middle} ms, p95 {late} ms, p99 {last} ms"


def _box(name: str, ms: Milliseconds, style: Style, across: Scale, y: float, margin: float) -> Html:
    """One row: its samples as a strip, quartiles as a box, p50, p95 and p99 as lines with heads."""
    p25, p50, p75, p95, p99 = (across(float(p)) for p in np.percentile(ms, (25, 50, 75, 95, 99)))
    ticks = "".join(f"M{across(float(v)):.1f} {y + 8:.1f}v6" for v in _strip(ms))
    class_ = f"c{style.colour}"
    if margin < 100:  # the name stands above its box
        names = label(margin + 16, y - 21, elided(name, 44), title=name)
        sign = marker(style, margin + 6, y - 25, 5)
    else:
        names = label(margin - 22, y + 4, elided(name, 29), "end", title=name)
        sign = marker(style, margin - 8, y, 6)
    return tag(
        "g",
        tag("title", f"{name}: {_percentiles(ms)}, {len(ms)} calls"),
        line(across(float(ms[0])), y, across(float(ms[-1])), y, "whisker"),
        tag("rect", x=p25, y=y - 7, width=max(p75 - p25, 1.0), height=14, class_=f"box {class_}"),
        line(p50, y - 10, p50, y + 10, "p50"),
        tag("path", d=f"M{p95:.1f} {y - 7:.1f}v14m-4 -14h8", class_="p95"),
        tag("path", d=f"M{p99:.1f} {y - 7:.1f}v14m-4 -14h8l-4 5z", class_="p99"),
        tag("path", d=ticks, class_=f"strip s{style.colour}"),
        names,
        sign,
    )


def _strip(ms: Milliseconds) -> Milliseconds:
    """Those of the sorted samples that are drawn: the slowest 20, and others evenly spaced."""
    if len(ms) <= _STRIP:
        return ms
    spaced = np.linspace(0, len(ms) - 21, _STRIP - 20).round().astype(int)
    return np.concatenate([ms[spaced], ms[-20:]])


def distribution(row: Row, style: Style) -> Html:
    """Empirical distribution of the latencies of a row, one line a scope, on an axis of its own."""
    timed = [(scope, counted_ms(t)) for scope in SCOPES if (t := row.timing(scope))]
    width, height, left, right, top, bottom = 320, 176, 40, 306, 30, 132
    across = scale([v for _, ms in timed for v in (ms[0], ms[-1])], left, right, 0.03)
    up = Scale(0.0, 100.0, bottom, top)
    lines = []
    for scope, ms in timed:
        shares = np.unique(np.append(np.linspace(0, 100, 41), (95, 97, 98, 99, 99.5)))
        values = np.percentile(ms, shares)
        places = [(across(float(v)), up(float(s))) for v, s in zip(values, shares, strict=True)]
        class_ = f"ecdf s{style.colour} {scope}"
        lines.append(polyline(places, class_))
        for share in (50, 95, 99):
            place = across(float(np.percentile(ms, share)))
            lines.append(tag("circle", cx=place, cy=up(share), r=3, class_="quantile"))
    said = "; ".join(f"{scope}: {_percentiles(ms)}" for scope, ms in timed)
    return tag(
        "figure",
        tag("figcaption", row.name),
        drawing(
            width,
            height,
            f"Distribution of the latencies of {row.name}. {said}.",
            x_axis(across, top, bottom, "ms a call", 4),
            y_axis(up, left, right, "% of calls within", 5),
            *lines,
        ),
        class_="panel",
    )
