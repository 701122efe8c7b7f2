"""Latency and clocks of each turn over the time of a run: what disturbed it, and when."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bench.page.markup import Html, join, tag
from bench.page.svg import Scale, drawing, label, line, polyline, scale, x_axis, y_axis
from bench.record import Row, Timing, Turn
from bench.report.figures import milliseconds, number

Clock = Callable[[Turn], float | None]


def rounds(row: Row, timing: Timing, end_s: float) -> Html:
    """Median latency of each turn over the time of the run, and the clocks beneath it.

    Args:
        timing: of ``row``, with at least one turn that has samples.
        end_s: when the last turn of all rows ended, so that the panels share their time axis.
    """
    turns = [turn for turn in timing.turns if turn.samples_ns]
    medians = [float(np.median(turn.samples_ns)) / 1e6 for turn in turns]
    left, right, top, middle = 52, 346, 28, 126
    across = Scale(0.0, max(end_s, 1e-3), left, right)
    centre = float(np.median(medians))
    up = scale([*medians, 0.98 * centre, 1.02 * centre], middle, top, 0.1)  # noise looks small
    places = [(across(t.start_s), up(ms), t) for t, ms in zip(turns, medians, strict=True)]
    signs = [
        tag("g", tag("title", _sentence(turn, ms)), _sign(x, y, turn))
        for (x, y, turn), ms in zip(places, medians, strict=True)
    ]
    counted = [(x, y) for x, y, turn in places if turn.counted]
    strips, bottom = [], float(middle)
    for name, clock in (("CPU", _cpu_mhz), ("GPU", _gpu_mhz)):
        if any(clock(turn) is not None for turn in turns):
            strips.append(_clock(name, turns, clock, across, bottom + 24))
            bottom += 58
    called = f"{row.name}, {timing.scope}"
    return tag(
        "figure",
        tag("figcaption", called),
        drawing(
            358,
            bottom + 42,
            f"Turns of {called}. " + "; ".join(map(_sentence, turns, medians)),
            x_axis(across, top, bottom, "s since the timing began", 5),
            y_axis(up, left, right, "median ms a call", 4),
            polyline(counted, "way") if counted else None,
            *signs,
            *strips,
        ),
        class_="panel",
    )


def turn_key(kind: str) -> Html:
    """The sign of a kind of turn in the legend: ``counted``, ``repeated`` or a mark."""
    marks = () if kind in ("counted", "repeated") else (kind,)
    turn = Turn(0, 0.0, 0.0, (), marks=marks, counted=kind != "repeated")
    return tag("svg", _sign(8, 8, turn), viewBox="0 0 16 16", class_="key", aria_hidden="true")


def _sentence(turn: Turn, median_ms: float) -> str:
    words = [*turn.marks, *turn.telemetry.throttled, *([] if turn.counted else ["not counted"])]
    marks = f" ({', '.join(words)})" if words else ""
    return f"round {turn.round} at {turn.start_s:.1f} s: {milliseconds(median_ms)} ms{marks}"


def _sign(x: float, y: float, turn: Turn) -> Html:
    """A turn: dot, triangle (disturbed) or square (throttled); crossed out if it is not counted."""
    class_ = "turn marked" if turn.marks else "turn"
    if "throttled" in turn.marks:
        sign = tag("path", d=f"M{x - 5:.1f} {y - 5:.1f}h10v10h-10z", class_=class_)
    elif turn.marks:
        sign = tag("path", d=f"M{x:.1f} {y - 7:.1f}l6.5 11.5h-13z", class_=class_)
    else:
        sign = tag("circle", cx=x, cy=y, r=4, class_=class_)
    if turn.counted:
        return sign
    cross = tag("path", d=f"M{x - 6:.1f} {y - 6:.1f}l12 12m0 -12l-12 12", class_="cross")
    return tag("g", sign, cross, class_="repeated")


def _cpu_mhz(turn: Turn) -> float | None:
    return turn.telemetry.cpu_mhz


def _gpu_mhz(turn: Turn) -> float | None:
    return turn.telemetry.gpu_mhz


def _clock(name: str, turns: Sequence[Turn], clock: Clock, across: Scale, top: float) -> Html:
    """A clock in MHz at each turn where it is known, in a strip of 34 px below ``top``."""
    found = [(turn.start_s, mhz) for turn in turns if (mhz := clock(turn)) is not None]
    values = [mhz for _, mhz in found]
    up = scale(values, top + 34, top, 0.2)
    highest, lowest = max(values), min(values)
    shown = [highest, lowest] if up(lowest) - up(highest) > 12 else [highest]
    return join(
        line(across.start, top + 34, across.end, top + 34, "grid"),
        *(label(across.start - 7, up(mhz) + 4, number(mhz, 0), "end", "tick") for mhz in shown),
        label(2, top - 8, f"{name} clock, MHz", class_="title"),
        polyline([(across(at), up(mhz)) for at, mhz in found], "way"),
        *(tag("circle", cx=across(at), cy=up(mhz), r=2.5, class_="clock") for at, mhz in found),
    )
