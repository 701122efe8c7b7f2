"""Charts of a record: accuracy against speed, latencies, and turns over time.

Each shows one setting in a viewBox ``width`` px wide, and is "" where there is nothing to draw.
Colour and shape of a mark stand for the backend, its filling for the variant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.record import Report, Setting, Timing, Turn
from bench.report.columns import rows_of
from bench.report.figures import elided, milliseconds, percent, rate
from bench.report.page.figure import INK, ON_PAGE, PALETTE, SOFT, Chart, clean, fit, style
from bench.statistics import pareto_front
from dabnet.intervals import Interval
from dabnet.runtime.runner import SCOPES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]
Marks = Mapping[str, dict[str, Any]]

WIDE, NARROW = 1000, 358
"""Widths in px for a desktop and a phone; letters scaled for one do not suit the other."""

_LANE = 76
"""Height in px of a row's part of a chart."""
_SHAPES, _FILLINGS = "os^DvPh", ("full", "none", "left", "bottom", "right", "top")
_PERCENTILES: Marks = {
    "p50": {"marker": "|", "markersize": 20, "markeredgewidth": 2.6},
    "p95": {"marker": "v", "fillstyle": "none"},
    "p99": {"marker": "v"},
}
_TURNS: Marks = {
    "counted": {"marker": "o"},
    "disturbed": {"marker": "^", "markerfacecolor": PALETTE[4]},
    "throttled": {"marker": "s", "markerfacecolor": PALETTE[4]},
    "not counted": {"marker": "x", "markersize": 9},
}


@dataclass(frozen=True, slots=True)
class Look:
    """Mark of a row in every chart: CSS colour, the mark as a small SVG, matplotlib's arguments."""

    colour: str
    sign: str
    marker: dict[str, Any]


def looks(report: Report) -> dict[str, Look]:
    """Row name → look."""
    parts = [row.name.partition("-") for row in report.rows]
    backends, variants = (list(dict.fromkeys(part[n] for part in parts)) for n in (0, 2))
    return {"".join(p): _look(backends.index(p[0]), variants.index(p[2])) for p in parts}


def _look(backend: int, variant: int) -> Look:
    colour, shape = PALETTE[backend % len(PALETTE)], _SHAPES[backend % len(_SHAPES)]
    filling = _FILLINGS[variant % len(_FILLINGS)]
    marker = {"marker": shape, "fillstyle": filling, "markerfacecoloralt": "none", "color": colour}
    sign = _path(shape, filling, ON_PAGE[colour]) + _path(shape, "full", ON_PAGE[colour], "none")
    sign = f'<svg class="key" viewBox="0 0 16 16" aria-hidden="true">{sign}</svg>'
    return Look(ON_PAGE[colour], sign, {**marker, "linestyle": "none"})


def _path(shape: str, filling: Any, ink: str, fill: str = "") -> str:
    """Return a marker of matplotlib as an SVG path within 16 px."""
    from matplotlib.markers import MarkerStyle
    from matplotlib.transforms import Affine2D

    mark = MarkerStyle(shape, filling)
    path = mark.get_path().transformed(mark.get_transform() + Affine2D().scale(11, -11))
    letters = {path.MOVETO: "M", path.LINETO: "L", path.CURVE3: "Q", path.CURVE4: "C"}
    d = "".join(
        letters[code] + " ".join(f"{v + 8:.1f}" for v in points) if code in letters else "Z"
        for points, code in path.iter_segments()
    )
    fill = fill or (ink if mark.is_filled() else "none")
    return f'<path d="{d}" style="fill:{fill};stroke:{ink}"/>'


def _name(chart: Chart, look: Look, name: str, left: float, top: float) -> None:
    """Write a row's name after its mark, at those px from the upper left corner."""
    from matplotlib.lines import Line2D
    from matplotlib.transforms import IdentityTransform

    in_px, y = IdentityTransform(), chart.height - top
    chart.figure.add_artist(Line2D([left], [y], **look.marker, markersize=8, transform=in_px))
    short = elided(clean(name), 44)
    text = chart.figure.text(left + 12, y, short, va="center_baseline", transform=in_px)
    chart.explain(text, name)


def _legend(chart: Chart, marks: Marks) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=INK, ls="none", label=name, **m) for name, m in marks.items()]
    chart.figure.legend(
        handles=lines, loc="upper right", ncols=4, borderaxespad=0, columnspacing=1, handlelength=1
    )


# --- accuracy against speed -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Point:
    """One row: frames per second and mIoU in 0…1."""

    name: str
    fps: Interval
    miou: Interval

    def __str__(self) -> str:
        fps, miou = self.fps, self.miou
        return (
            f"{self.name}: {rate(fps.value)} FPS [{rate(fps.low)}, {rate(fps.high)}], mIoU"
            f" {percent(miou.value)} % [{percent(miou.low)}, {percent(miou.high)}]"
        )


def chart_scope(report: Report, setting: Setting) -> str:
    """The scope whose FPS are compared: ``host`` where any row has them, else ``device``."""
    timings = (row.timing("host") for row in rows_of(report, setting))
    return "host" if any(timing and timing.fps for timing in timings) else "device"


def points(report: Report, scope: str, setting: Setting) -> list[Point]:
    """The rows with both an mIoU and FPS of that scope."""
    return [
        Point(row.name, timing.fps, row.accuracy.score.miou)
        for row in rows_of(report, setting)
        if (timing := row.timing(scope)) and timing.fps and row.accuracy and row.accuracy.score
    ]


def front(report: Report, scope: str, setting: Setting) -> list[str]:
    """Names of the rows on the Pareto front of FPS and mIoU, the slowest first."""
    return [point.name for point in _front(points(report, scope, setting))]


def _front(drawn: Sequence[Point]) -> list[Point]:
    return [drawn[n] for n in pareto_front([(p.fps.value, p.miou.value) for p in drawn])]


@style()
def scatter(report: Report, scope: str, setting: Setting, width: int = WIDE) -> str:
    """Accuracy against speed with 95 % intervals, and the Pareto front as stairs."""
    drawn, look = points(report, scope, setting), looks(report)
    if not drawn or scope not in SCOPES:
        return ""
    chart = Chart(width, max(340 if width < 600 else 400, 34 * len(drawn)))
    axes = chart.axes(46, 34, width - 14, chart.height - 42)
    x = np.array([(p.fps.low, p.fps.value, p.fps.high) for p in drawn])
    y = np.array([(p.miou.low, p.miou.value, p.miou.high) for p in drawn]) * 100
    fit(axes, "x", x, 0.12, 9 if width > 600 else 4)
    fit(axes, "y", y, 0.08, 6)
    axes.set(xlabel=f"frames/s, scope {scope}", title="mIoU %")
    stairs, left = [], axes.get_xlim()[0]
    best = _front(drawn)
    for point in best:
        stairs += [(left, 100 * point.miou.value), (point.fps.value, 100 * point.miou.value)]
        left = point.fps.value
    stairs.append((left, axes.get_ylim()[0]))
    axes.plot(*np.transpose(stairs), color=SOFT, linewidth=1.5, linestyle=(0, (5, 4)))
    lines = list(pairwise(stairs))
    for point, fps, miou in zip(drawn, x, y, strict=True):
        marker = look[point.name].marker
        axes.plot(fps[[0, 2]], miou[[1, 1]], marker="|", markersize=8, color=marker["color"])
        axes.plot(fps[[1, 1]], miou[[0, 2]], marker="_", markersize=8, color=marker["color"])
        chart.explain(axes.plot(fps[1], miou[1], **marker, ms=11, zorder=3)[0], str(point))
        lines += [((fps[0], miou[1]), (fps[2], miou[1])), ((fps[1], miou[0]), (fps[1], miou[2]))]
    _label(chart, axes, drawn, look, np.array(lines))
    names = ", ".join(point.name for point in best)
    title = f"mIoU against frames per second, scope {scope}, {setting}"
    return chart.svg(title, f"{'; '.join(map(str, drawn))}. On the Pareto front: {names}.")


def _label(
    chart: Chart, axes: Axes, drawn: Sequence[Point], look: Mapping[str, Look], lines: Floats
) -> None:
    """Write names with their marks beside the points, with a leader where they had to move away.

    A name must not lie on names and marks; to lie on one of the ``lines``, (n, 2 ends, 2) in units
    of the axes, costs as much as to move a little.
    """
    from matplotlib.transforms import IdentityTransform

    in_px, to_px, frame = IdentityTransform(), axes.transData.transform, axes.bbox.extents
    places = to_px([(point.fps.value, 100 * point.miou.value) for point in drawn])
    crowded = np.hstack((places - 9, places + 9))
    ends = to_px(lines.reshape(-1, 2)).reshape(-1, 2, 2)
    covered = np.hstack((ends.min(1) - 2, ends.max(1) + 2))
    for n in np.argsort(-places[:, 1], kind="stable"):
        x, y = places[n]
        name = elided(clean(drawn[n].name), 22 if chart.width < 600 else 46)
        text = axes.text(0, 0, name, va="center_baseline", transform=in_px, zorder=4)
        chart.explain(text, drawn[n].name)
        wide = text.get_window_extent().width + 14  # the mark is left of it
        starts = x + np.array((12, -12 - wide, -wide / 2, 40, -40 - wide))
        left, up = map(np.ravel, np.meshgrid(starts, y + 8 * np.arange(-26, 27)))
        boxes = np.stack((left, up - 8, left + wide, up + 8), axis=1)
        outside = (boxes[:, :2] < frame[:2]).any(1) | (boxes[:, 2:] > frame[2:]).any(1)
        away = np.maximum(left - x, x - left - wide).clip(0)
        cost = abs(up - y) + 0.5 * away + 1e9 * outside
        cost += 20 * _overlap(boxes, crowded) + 0.4 * _overlap(boxes, covered)
        box = boxes[cost.argmin()]
        crowded = np.vstack((crowded, box))
        text.set_position((box[0] + 14, box[1] + 8))
        marker = look[drawn[n].name].marker
        axes.plot(box[0] + 5, box[1] + 8, **marker, transform=in_px, zorder=4)
        end = np.clip((x, y), box[:2], box[2:])
        if np.hypot(*(end - (x, y))) > 16:
            axes.plot((x, end[0]), (y, end[1]), color=SOFT, linewidth=0.8, transform=in_px)


def _overlap(boxes: Floats, others: Floats) -> Floats:
    """Area in px² of each of the boxes (n, 4) that the others (m, 4) cover."""
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    high = np.minimum(boxes[:, None, 2:], others[:, 2:])
    return np.asarray((high - low).clip(0).prod(2).sum(1))


# --- latencies --------------------------------------------------------------------------------


def counted_ms(timing: Timing) -> Floats:
    """Latency of each call of the counted turns in ms, sorted."""
    samples = [turn.samples_ns for turn in timing.turns if turn.counted]
    return np.sort(np.concatenate([np.array(s, np.float64) for s in samples])) / 1e6


def _samples(report: Report, scope: str, setting: Setting) -> dict[str, Floats]:
    """Row name → latencies in ms; those of ``paper`` are means of many calls and left out."""
    timed = [(row.name, row.timing(scope)) for row in rows_of(report, setting) if scope in SCOPES]
    return {name: counted_ms(timing) for name, timing in timed if timing}


def _percentiles(name: str, ms: Floats) -> str:
    p50, p95, p99 = (milliseconds(float(p)) for p in np.percentile(ms, (50, 95, 99)))
    return f"{name}: p50 {p50} ms, p95 {p95} ms, p99 {p99} ms, {len(ms)} calls"


@style()
def latencies(report: Report, scope: str, setting: Setting, width: int = WIDE) -> str:
    """Box and strip of each row: quartiles, p50, p95, p99 and single calls."""
    timed, look = _samples(report, scope, setting), looks(report)
    if not timed:
        return ""
    chart = Chart(width, _LANE * len(timed) + 72)
    axes = chart.axes(10, 30, width - 10, chart.height - 42)
    fit(axes, "x", [(ms[0], ms[-1]) for ms in timed.values()], 0.04, 10 if width > 600 else 5)
    scale = ", logarithmic" if axes.get_xscale() == "log" else ""
    axes.set(ylim=(_LANE * len(timed), 0), xlabel=f"ms per call, scope {scope}{scale}", yticks=())
    for n, (name, ms) in enumerate(timed.items()):
        y, colour = _LANE * n + 40, look[name].marker["color"]
        p25, p50, p75, p95, p99 = np.percentile(ms, (25, 50, 75, 95, 99))
        axes.plot(ms[[0, -1]], (y, y), color=SOFT, linewidth=1)
        strip = np.append(np.percentile(ms, np.linspace(0, 100, 101), method="nearest"), ms[-20:])
        strokes = np.meshgrid((y + 10, y + 16, np.nan), np.unique(strip))
        axes.plot(strokes[1].ravel(), strokes[0].ravel(), color=colour, linewidth=1)
        (box,) = axes.barh(y, p75 - p25, 14, p25, facecolor=colour, edgecolor=INK, linewidth=0.8)
        chart.explain(box, _percentiles(name, ms))
        axes.plot((p95, p99), (y, y), "|", color=INK, markersize=14)
        for place, (key, mark) in zip((p50, p95, p99), _PERCENTILES.items(), strict=True):
            axes.plot(place, y if key == "p50" else y - 12, color=INK, **mark)
        _name(chart, look[name], name, 12, 40 + _LANE * n)
    _legend(chart, _PERCENTILES)
    said = "; ".join(_percentiles(name, ms) for name, ms in timed.items())
    return chart.svg(f"Latencies of single calls, scope {scope}, {setting}", said)


@style()
def distributions(report: Report, setting: Setting, width: int = WIDE) -> str:
    """Share of the calls within each latency: a panel per row, a line per scope."""
    scopes = {scope: _samples(report, scope, setting) for scope in SCOPES}
    names = [
        r.name for r in rows_of(report, setting) if any(r.name in of for of in scopes.values())
    ]
    if not names:
        return ""
    look, columns = looks(report), 3 if width > 600 else 1
    wide, high, said = width // columns, 190, ""
    chart = Chart(width, high * -(-len(names) // columns))
    shares = np.unique((*np.linspace(0, 100, 41), 95, 97, 98, 99, 99.5))
    for n, name in enumerate(names):
        left, top = n % columns * wide, n // columns * high
        axes = chart.axes(left + 40, top + 40, left + wide - 14, top + high - 48)
        axes.set(ylim=(0, 100), yticks=(0, 50, 100), xlabel="ms per call")
        axes.set_title("% of calls within")
        timed = {scope: of[name] for scope, of in scopes.items() if name in of}
        fit(axes, "x", [(ms[0], ms[-1]) for ms in timed.values()], 0.03, 4)
        for scope, ms in timed.items():
            dash, colour = "-" if scope == "host" else "--", look[name].marker["color"]
            (line,) = axes.plot(np.percentile(ms, shares), shares, dash, color=colour, lw=2)
            marked = (50, 95, 99)
            axes.plot(np.percentile(ms, marked), marked, "o", color=INK, ms=6, fillstyle="none")
            chart.explain(line, f"scope {scope}, {_percentiles(name, ms)}")
            said += f"scope {scope}, {_percentiles(name, ms)}; "
        _name(chart, look[name], name, left + 8, top + 10)
    return chart.svg(f"Latencies of each row, {setting}", said)


# --- turns over time --------------------------------------------------------------------------


def _median_ms(turn: Turn) -> float:
    return float(np.median(turn.samples_ns)) / 1e6


def _turn(turn: Turn) -> str:
    words = [*turn.marks, *turn.telemetry.throttled, *([] if turn.counted else ["not counted"])]
    marks = f" ({', '.join(words)})" if words else ""
    return f"round {turn.round} at {turn.start_s:.1f} s: {milliseconds(_median_ms(turn))} ms{marks}"


def _summary(name: str, turns: Sequence[Turn]) -> str:
    """The range of the medians, and each turn that is marked or does not count."""
    least, greatest = (milliseconds(f(map(_median_ms, turns))) for f in (min, max))
    odd = [f", {_turn(turn)}" for turn in turns if turn.marks or not turn.counted]
    return f"{name}: medians of {len(turns)} turns {least} to {greatest} ms{''.join(odd)}"


@style()
def rounds(report: Report, scope: str, setting: Setting, width: int = WIDE) -> str:
    """Median latency of each turn over the time of the run, and the clocks of the machine."""
    timings = [(row, timing) for row in report.rows for timing in row.timings]
    timed = {
        row.name: turns
        for row, timing in timings
        if timing.scope == scope in SCOPES and row.setting == setting
        if (turns := [turn for turn in timing.turns if turn.samples_ns])
    }
    if not timed:
        return ""
    ends = [t.start_s + t.wall_s for _, of in timings if of.scope in SCOPES for t in of.turns]
    clocks = {key: _clock(timed, key) for key in ("cpu_mhz", "gpu_mhz")}
    clocks = {key: found for key, found in clocks.items() if found}
    look, many = looks(report), len(timed) + len(clocks)
    chart = Chart(width, 30 + _LANE * many + 42)
    lanes = [chart.axes(56, 54 + _LANE * n, width - 12, 26 + _LANE * (n + 1)) for n in range(many)]
    for axes in lanes:
        axes.set_xlim(0, max(*ends, 1e-3))
        axes.tick_params(labelbottom=axes is lanes[-1])
    for n, (name, turns) in enumerate(timed.items()):
        _draw_turns(chart, lanes[n], turns, look[name].marker["color"])
        _name(chart, look[name], name, 12, 40 + _LANE * n)
    for axes, (key, found) in zip(lanes[len(timed) :], clocks.items(), strict=True):
        axes.set_title(f"{key[:3].upper()} clock, MHz")
        at, names, mhz = zip(*found, strict=True)
        fit(axes, "y", mhz, 0.2, 3)
        axes.plot(at, mhz, color=SOFT, linewidth=0.6)
        axes.scatter(at, mhz, 14, [look[name].marker["color"] for name in names], zorder=3)
    lanes[-1].set_xlabel("s since the timing began")
    _legend(chart, _TURNS)
    said = "; ".join(_summary(name, turns) for name, turns in timed.items())
    return chart.svg(f"Median ms per call over time, scope {scope}, {setting}", said)


def _clock(timed: Mapping[str, Sequence[Turn]], key: str) -> list[tuple[float, str, float]]:
    """(start in s, row, MHz) of each turn whose clock is known, in the order of time."""
    turns = [(turn, name) for name, turns in timed.items() for turn in turns]
    known = [(t.start_s, name, getattr(t.telemetry, key)) for t, name in turns]
    return sorted(clock for clock in known if clock[2] is not None)


def _draw_turns(chart: Chart, axes: Axes, turns: Sequence[Turn], colour: str) -> None:
    """Dots, triangles (disturbed) and squares (throttled); hollow and crossed if not counted."""
    medians = [_median_ms(turn) for turn in turns]
    centre = float(np.median(medians))
    fit(axes, "y", [*medians, 0.98 * centre, 1.02 * centre], 0.1, 3)  # noise looks small
    counted = [(turn.start_s, _median_ms(turn)) for turn in turns if turn.counted]
    axes.plot(*np.reshape(counted, (-1, 2)).T, color=SOFT, linewidth=1)
    kinds: dict[tuple[str, bool], list[Turn]] = {}
    for turn in turns:
        mark = "throttled" if "throttled" in turn.marks else "disturbed"
        kinds.setdefault((mark if turn.marks else "counted", turn.counted), []).append(turn)
    for (kind, counts), alike in kinds.items():
        places = [turn.start_s for turn in alike], [_median_ms(turn) for turn in alike]
        look = {"color": INK, "ls": "none", "markerfacecolor": colour, **_TURNS[kind]}
        look |= {} if counts else {"markerfacecolor": "none"}
        chart.explain(axes.plot(*places, **look)[0], *map(_turn, alike))
        if not counts:
            axes.plot(*places, color=INK, ls="none", **_TURNS["not counted"])
