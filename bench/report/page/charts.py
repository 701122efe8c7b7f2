"""Charts of a record as inline SVG: accuracy against speed, latencies, and turns over time.

Each shows one scope of one setting, or is "" where there is nothing to draw. matplotlib draws it;
font, ink and palette come from the style sheet of the page. Colour and shape of a mark stand for
the backend, its filling for the variant; with several subjects the colour stands for the subject.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import numpy as np
from matplotlib import rc_context, rcParams, ticker, transforms
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from numpy.typing import ArrayLike, NDArray

from bench.record import Report, Row, Setting, Timing, Turn
from bench.record.timing import Latency
from bench.report.columns import BROKEN, counted, is_broken, rows_of
from bench.report.figures import milliseconds, rates, shares
from dabnet.intervals import Interval
from dabnet.pareto import pareto_front

Floats = NDArray[np.float64]
Marks = Mapping[str, dict[str, Any]]

WIDTH, LANE, FONT = 450, 70, 13
"""px of a chart, of a row in it and of its letters; the page shows it 340 to 520 px wide."""
NAME = 36
"""Characters of a row's name that are written; its tooltip has all."""
MOST_ROWS, MOST_SETTINGS = 100, 20
"""Rows and settings of a record that are drawn: the charts of more take minutes."""
MOST_SIGNS = 100
"""Turns of a row in a chart whose marks are drawn."""
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7f87")
"""Okabe and Ito's colours (2008), which the colour-blind can tell apart, and a grey."""
INK, SOFT, HAIR = "#010101", "#020202", "#030303"
ON_PAGE = {colour: f"var(--k{n})" for n, colour in enumerate(PALETTE)} | {
    INK: "currentColor",
    SOFT: "var(--soft)",
    HAIR: "var(--line)",
}
"""Colour in matplotlib → colour on the page, whose style sheet may choose another in the dark."""
_SHAPES, _FILLINGS = "os^DvPh", ("full", "none", "left", "bottom", "right", "top")
_PERCENTILES: Marks = {
    "p50": {"marker": "|", "markersize": 18, "markeredgewidth": 2.6},
    "p95": {"marker": "v", "markersize": 6, "fillstyle": "none"},
    "p99": {"marker": "v", "markersize": 6},
}
_TURNS: Marks = {
    "counted": {"marker": "o"},
    "disturbed": {"marker": "^", "markersize": 8, "markerfacecolor": PALETTE[4]},
    "throttled": {"marker": "s", "markersize": 7, "markerfacecolor": PALETTE[4]},
    "not counted": {"marker": "x", "markersize": 12},
}
_SOFT = ("axes.labelcolor", "axes.titlecolor", "axes.edgecolor", "legend.labelcolor")
_STYLE: dict[Any, Any] = {
    **dict.fromkeys(("axes.spines.left", "axes.spines.right", "axes.spines.top"), False),
    **dict.fromkeys(("text.parse_math", "legend.frameon", "xtick.bottom", "ytick.left"), False),
    **dict.fromkeys((*_SOFT, "xtick.color", "ytick.color"), SOFT),
    **{"axes.titlelocation": "left", "xaxis.labellocation": "right", "axes.facecolor": "none"},
    **{"axes.grid": True, "axes.axisbelow": True, "grid.color": HAIR, "text.color": INK},
    **{"font.size": FONT, "axes.titlesize": FONT, "lines.markersize": 5, "svg.fonttype": "none"},
}


@dataclass(frozen=True, slots=True)
class Look:
    """Mark of a row in every chart: CSS colour, the mark as a small SVG, matplotlib's arguments."""

    colour: str
    sign: str
    marker: dict[str, Any]


def looks(report: Report) -> dict[str, Look]:
    """Row name → look."""
    parts = [(row.of, *row.on.partition("-")[::2]) for row in report.rows]
    kinds = [list(dict.fromkeys(column)) for column in zip(*parts, strict=True)]
    places = ([k.index(p) for k, p in zip(kinds, part, strict=True)] for part in parts)
    several = len(report.subjects) > 1
    return {
        row.name: _look(of if several else backend, backend, variant)
        for row, (of, backend, variant) in zip(report.rows, places, strict=True)
    }


@lru_cache(maxsize=1000)
def _look(hue: int, backend: int, variant: int) -> Look:
    colour, shape = PALETTE[hue % len(PALETTE)], _SHAPES[backend % len(_SHAPES)]
    filling = _FILLINGS[variant % len(_FILLINGS)]
    on_page = ON_PAGE[colour]
    inner = "" if filling == "none" else f'<path fill="{on_page}" d="{_path(shape, filling)}"/>'
    sign = (
        f'<svg class="key" viewBox="0 0 16 16" aria-hidden="true" fill="none" stroke="{on_page}">'
        f'<path d="{_path(shape, "full")}"/>{inner}</svg>'
    )
    marker = {"marker": shape, "fillstyle": filling, "markerfacecoloralt": "none", "color": colour}
    return Look(on_page, sign, {**marker, "linestyle": "none"})


def _path(shape: str, filling: Any) -> str:
    """Return a marker of matplotlib as the path of an SVG of 16 px."""
    mark = MarkerStyle(shape, filling)
    path = mark.get_path().transformed(mark.get_transform() + transforms.Affine2D().scale(11, -11))
    letters = {path.MOVETO: "M", path.LINETO: "L", path.CURVE3: "Q", path.CURVE4: "C"}
    return "".join(
        letters[code] + " ".join(f"{v + 8:.1f}" for v in points) if code in letters else "Z"
        for points, code in path.iter_segments()
    )


def _axes(height: int) -> Axes:
    """Return axes of that height in px, in a figure with room for labels."""
    whole = height + 74
    figure = Figure((WIDTH / 72, whole / 72), dpi=72, frameon=False)
    return figure.add_axes((52 / WIDTH, 44 / whole, 1 - 66 / WIDTH, height / whole))


def _drawn(report: Report) -> list[Row]:
    settings = set(report.settings[:MOST_SETTINGS])
    return [row for row in report.rows if row.setting in settings][:MOST_ROWS]


def _drawn_rows(report: Report, setting: Setting) -> list[Row]:
    """The rows of a setting that charts draw."""
    if setting not in report.settings[:MOST_SETTINGS]:
        return []
    return [row for row in _drawn(report) if row.setting == setting]


def left_out(report: Report) -> list[str]:
    """A line for the notes of the page where charts do not draw every row."""
    drawn, many = len(_drawn(report)), len(report.rows)
    return [f"Charts draw the first {drawn} of {many} rows."] if drawn < many else []


def clean(text: str) -> str:
    """Replace line breaks, control characters and marks that change the direction of text."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _tip(text: str) -> str:
    """Return the id by which ``_svg`` gives an artist its tooltip."""
    return f"tip {clean(text)}"


def _svg(axes: Axes, title: str, said: str) -> str:
    """Return the figure as an element of the page; screen readers read ``title`` and ``said``."""
    file, unsaid = StringIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
    rcParams["svg.hashsalt"] = title  # ids are those of no other chart
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the page's font may have it
        axes.figure.canvas.print_figure(file, format="svg", metadata=unsaid)
    root = ElementTree.fromstring(file.getvalue())
    drawing = {"class": "chart", "viewBox": root.attrib["viewBox"], "font-size": str(FONT)}
    for node in list(root.iter()):
        _adapt(node)
    for definitions in root.findall("defs"):  # a style for all elements, and clip paths
        root.remove(definitions)
    root.attrib = {**drawing, "role": "img", "aria-label": clean(f"{title}. {said}")}
    return ElementTree.tostring(root, encoding="unicode")


def _adapt(node: ElementTree.Element) -> None:
    """Shorten an element of matplotlib's SVG, and give it the colours of the page."""
    node.tag, node.tail = node.tag.rpartition("}")[2], None
    found = {key.rpartition("}")[2]: value for key, value in node.attrib.items()}
    for mark in node.findall("{*}use"):  # of one artist, which all look alike
        found["style"] = mark.attrib.pop("style", "")
    if node.tag != "text":
        node.text = None
    if found.get("id", "").startswith("tip "):
        ElementTree.SubElement(node, "title").text = found["id"][4:]
    look = re.sub("#[0-9a-f]{6}", lambda c: ON_PAGE.get(c[0], c[0]), found.pop("style", ""))
    look = re.sub(r"font[-a-z]*: [^;]*;? ?", "", look)
    kept = ("id", "href", "d", "x", "y") if node.tag == "path" else ("href", "x", "y")
    node.attrib = {key: found[key].replace(" \n", "") for key in kept if key in found}
    for key in node.attrib.keys() & {"d", "x", "y"}:
        node.set(key, re.sub(r"-?\d+\.\d+", lambda n: f"{float(n[0]):.1f}", node.attrib[key]))
    if look:
        node.set("style", look)


def fit(axes: Axes, name: str, values: ArrayLike) -> None:
    """Make an axis (x or y) hold the values; logarithmic if the greatest is over 4 × the least."""
    low, high = float(np.min(values)), float(np.max(values))
    axis = axes.xaxis if name == "x" else axes.yaxis
    if low > 1e-9 and high > 4 * low:
        room = (high / low) ** 0.08
        steps = (1, 1.5, 2, 3, 5, 7) if high < 20 * low else (1, 2, 5) if high < 200 * low else (1,)
        axes.set(**{f"{name}scale": "log", f"{name}lim": (low / room, high * room)})
        axis.set_major_locator(ticker.LogLocator(subs=steps, numticks=6))
    else:
        room = (high - low) * 0.08 or abs(high) * 0.05 or 1.0
        axes.set(**{f"{name}lim": (low - room, high + room)})
        axis.set_major_locator(ticker.MaxNLocator(6, steps=(1, 2, 5, 10)))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:.6g}".replace("-", "−"))


def _name(axes: Axes, look: Look | None, name: str, x: float, y: float, transform: Any) -> None:
    """Write a row's name after its mark."""
    place = {"transform": transform, "clip_on": False, "zorder": 4}
    if look:
        axes.plot(x, y, **look.marker, markersize=8, **place)
    short = name if len(name) <= NAME else f"{name[:20]}…{name[-15:]}"
    axes.text(x + 10, y, clean(short), va="center_baseline", gid=_tip(name), **place)


# --- accuracy against speed -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Point:
    """One row: frames per second and mIoU in 0…1."""

    name: str
    fps: Interval
    miou: Interval
    is_broken: bool = False

    @property
    def label(self) -> str:
        return f"{self.name} {BROKEN}" if self.is_broken else self.name

    def __str__(self) -> str:
        return f"{self.label}: FPS {rates(self.fps)}, mIoU % {shares(self.miou)}"


def chart_scope(report: Report, setting: Setting) -> str:
    """The scope whose FPS are compared: ``host`` where any row has them, else ``device``."""
    timings = (row.timing("host") for row in rows_of(report, setting))
    return "host" if any(timing and timing.fps for timing in timings) else "device"


def points(
    report: Report, scope: str, setting: Setting, rows: Sequence[Row] | None = None
) -> list[Point]:
    """The rows of a setting (default: all) with both an mIoU and FPS of that scope."""
    return [
        Point(row.name, timing.fps, row.score.miou, is_broken(row))
        for row in (rows_of(report, setting) if rows is None else rows)
        if (timing := row.timing(scope)) and timing.fps and row.score
    ]


def front(drawn: Sequence[Point]) -> list[Point]:
    """The sound points on the Pareto front of FPS and mIoU, the slowest first."""
    sound = [point for point in drawn if not point.is_broken]
    return [sound[n] for n in pareto_front([(p.fps.value, p.miou.value) for p in sound])]


@rc_context(_STYLE)
def scatter(report: Report, scope: str, setting: Setting) -> str:
    """Accuracy against speed with 95 % intervals, and the Pareto front as stairs."""
    drawn = points(report, scope, setting, _drawn_rows(report, setting))
    if not drawn:
        return ""
    look = looks(report)
    axes = _axes(max(320, 32 * len(drawn)))
    x = np.array([(p.fps.low, p.fps.value, p.fps.high) for p in drawn])
    y = np.array([(p.miou.low, p.miou.value, p.miou.high) for p in drawn]) * 100
    fit(axes, "x", x)
    fit(axes, "y", y)
    axes.set(xlabel=f"frames/s, scope {scope}", title="mIoU %")
    stairs, left, best = [], axes.get_xlim()[0], front(drawn)
    for point in best:
        stairs += [(left, 100 * point.miou.value), (point.fps.value, 100 * point.miou.value)]
        left = point.fps.value
    stairs.append((left, axes.get_ylim()[0]))
    axes.plot(*np.transpose(stairs), color=SOFT, linewidth=1.5, linestyle=(0, (5, 4)))
    for point, fps, miou in zip(drawn, x, y, strict=True):
        marker = look[point.name].marker
        axes.plot(fps[[0, 2]], miou[[1, 1]], marker="|", markersize=8, color=marker["color"])
        axes.plot(fps[[1, 1]], miou[[0, 2]], marker="_", markersize=8, color=marker["color"])
        axes.plot(fps[1], miou[1], **marker, markersize=11, zorder=3, gid=_tip(str(point)))
    _label(axes, drawn, look)
    names = ", ".join(point.name for point in best)
    title = f"mIoU against frames per second, scope {scope}, {setting}"
    return _svg(axes, title, f"{'; '.join(map(str, drawn))}. On the Pareto front: {names}.")


def _label(axes: Axes, drawn: Sequence[Point], look: Mapping[str, Look]) -> None:
    """Write names with their marks beside the points, with a leader where they had to move away.

    A name must not lie on names and marks; to lie on a line costs as much as to move a little.
    """
    in_px, frame = transforms.IdentityTransform(), axes.bbox.extents
    to_px = axes.transData.transform
    places = to_px([(point.fps.value, 100 * point.miou.value) for point in drawn])
    crowded = np.hstack((places - 9, places + 9))
    lines = (to_px(line.get_xydata()) for line in axes.get_lines())
    ends = np.array([pair for line in lines for pair in pairwise(line)])
    covered = np.hstack((ends.min(1) - 2, ends.max(1) + 2))
    for n in np.argsort(-places[:, 1], kind="stable"):
        x, y = places[n]
        wide = 16 + 0.55 * FONT * min(len(drawn[n].label), NAME)  # with the mark left of it
        starts = x + np.array((12, -12 - wide, -wide / 2, 40, -40 - wide))
        left, up = map(np.ravel, np.meshgrid(starts, y + 8 * np.arange(-26, 27)))
        boxes = np.stack((left, up - 8, left + wide, up + 8), axis=1)
        outside = (boxes[:, :2] < frame[:2]).any(1) | (boxes[:, 2:] > frame[2:]).any(1)
        cost = abs(up - y) + 0.5 * np.maximum(left - x, x - left - wide).clip(0) + 1e9 * outside
        cost += 20 * _overlap(boxes, crowded) + 0.4 * _overlap(boxes, covered)
        box = boxes[cost.argmin()]
        crowded = np.vstack((crowded, box))
        _name(axes, look[drawn[n].name], drawn[n].label, box[0] + 5, box[1] + 8, in_px)
        end = np.clip((x, y), box[:2], box[2:])
        if np.hypot(*(end - (x, y))) > 16:
            axes.plot((x, end[0]), (y, end[1]), color=SOFT, linewidth=0.8, transform=in_px)


def _overlap(boxes: Floats, others: Floats) -> Floats:
    """Area in px² of each of the boxes (n, 4) that the others (m, 4) cover."""
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    high = np.minimum(boxes[:, None, 2:], others[:, 2:])
    return np.asarray((high - low).clip(0).prod(2).sum(1))


# --- a lane per row ---------------------------------------------------------------------------


def _lanes(look: Mapping[str, Look], names: Collection[str], marks: Marks) -> Axes:
    """Return axes in px from the top, with a lane per name and a legend of the marks."""
    axes = _axes(LANE * len(names))
    axes.set(ylim=(LANE * len(names), 0), yticks=())
    place = transforms.blended_transform_factory(transforms.IdentityTransform(), axes.transData)
    for n, name in enumerate(names):
        _name(axes, look.get(name), name, 12, LANE * n + 12, place)
    lines = [Line2D([], [], color=INK, ls="none", label=name, **m) for name, m in marks.items()]
    room: dict[str, Any] = {"borderaxespad": 0, "columnspacing": 1, "handlelength": 1}
    axes.legend(handles=lines, ncols=4, loc="lower right", bbox_to_anchor=(1, 1), **room)
    return axes


def counted_ms(timing: Timing) -> Floats:
    """Latency of each call of the counted turns in ms, sorted."""
    return np.sort(np.concatenate([turn.samples_ns for turn in counted(timing)])) / 1e6


def _percentiles(name: str, of: Latency) -> str:
    p50, p95, p99 = map(milliseconds, (of.p50_ms, of.p95_ms, of.p99_ms))
    return f"{name}: p50 {p50} ms, p95 {p95} ms, p99 {p99} ms, {of.calls} calls"


@rc_context(_STYLE)
def latencies(report: Report, scope: str, setting: Setting) -> str:
    """Box and strip of each row: quartiles, p50, p95, p99 and single calls."""
    timings = [(r.name, t) for r in _drawn_rows(report, setting) if (t := r.timing(scope))]
    timed = {name: (counted_ms(t), t.latency) for name, t in timings if t.latency}
    if not timed:
        return ""
    look = looks(report)
    axes = _lanes(look, timed, _PERCENTILES)
    fit(axes, "x", [(ms[0], ms[-1]) for ms, _ in timed.values()])
    scale = ", logarithmic" if axes.get_xscale() == "log" else ""
    axes.set_xlabel(f"ms per call, scope {scope}{scale}")
    for n, (name, (ms, of)) in enumerate(timed.items()):
        y, colour = LANE * n + 44, look[name].marker["color"]
        p25, p75 = np.percentile(ms, (25, 75))
        axes.plot(ms[[0, -1]], (y, y), color=SOFT, linewidth=1)
        strip = np.append(np.percentile(ms, np.linspace(0, 100, 101), method="nearest"), ms[-20:])
        strokes = np.meshgrid((y + 10, y + 16, np.nan), np.unique(strip))
        axes.plot(strokes[1].ravel(), strokes[0].ravel(), color=colour, linewidth=1)
        tip = _tip(_percentiles(name, of))
        axes.barh(y, p75 - p25, 14, p25, facecolor=colour, edgecolor=INK, linewidth=0.8, gid=tip)
        for key, mark in _PERCENTILES.items():
            place = getattr(of, f"{key}_ms")
            axes.plot(place, y if key == "p50" else y - 10, color=INK, **mark)
    said = "; ".join(_percentiles(name, of) for name, (_, of) in timed.items())
    return _svg(axes, f"Latencies of single calls, scope {scope}, {setting}", said)


def _median_ms(turn: Turn) -> float:
    return float(np.median(turn.samples_ns)) / 1e6


def _turn(turn: Turn) -> str:
    words = [*turn.marks, *turn.telemetry.throttled, *([] if turn.counted else ["not counted"])]
    at = f"round {turn.round} at {turn.start_s:.1f} s: {milliseconds(_median_ms(turn))} ms"
    return f"{at} ({', '.join(words)})"


def _summary(name: str, turns: Sequence[Turn]) -> str:
    """The range of the medians, and turns that are marked or do not count."""
    least, greatest = (milliseconds(f(map(_median_ms, turns))) for f in (min, max))
    odd = "".join(f", {_turn(turn)}" for turn in _odd(turns))
    return f"{name}: medians of {len(turns)} turns {least} to {greatest} ms{odd}"


def _odd(turns: Sequence[Turn]) -> list[Turn]:
    """The first turns that are marked or do not count."""
    return [turn for turn in turns if turn.marks or not turn.counted][:MOST_SIGNS]


@rc_context(_STYLE)
def rounds(report: Report, scope: str, setting: Setting) -> str:
    """Median latency of each turn over the time of the run, and the clocks of the machine."""
    timings = [(row.name, t) for row in _drawn_rows(report, setting) for t in row.timings]
    timed = {name: t.turns for name, t in timings if t.scope == scope and t.turns}
    if not timed:
        return ""
    turns, look = [turn for of in timed.values() for turn in of], looks(report)
    clocks = {"CPU clock, MHz": "cpu_mhz", "GPU clock, MHz": "gpu_mhz"}
    clocks = {k: v for k, v in clocks.items() if any(getattr(t.telemetry, v) for t in turns)}
    axes = _lanes(look, [*timed, *clocks], _TURNS)
    ends = min(turn.start_s for turn in turns) - 1, max(turn.start_s for turn in turns) + 1
    axes.set(xlim=ends, xlabel=f"s since the timing began, scope {scope}")
    scales = []
    for n, (name, of) in enumerate(timed.items()):
        scales.append(_Scale.of(n, list(map(_median_ms, of))))
        _draw_turns(axes, scales[-1], of, look[name].marker["color"])
    for n, key in enumerate(clocks.values(), len(timed)):
        y = _Scale.of(n, [mhz for t in turns if (mhz := getattr(t.telemetry, key))])
        scales.append(y)
        for name, of in timed.items():
            known = [(t.start_s, y.place(mhz)) for t in of if (mhz := getattr(t.telemetry, key))]
            axes.plot(*np.reshape(known, (-1, 2)).T, "o", ms=3, color=look[name].marker["color"])
    ticks = [(y, f"{value:.4g}") for scale in scales for y, value in scale.ends]
    axes.set_yticks([y for y, _ in ticks], [text for _, text in ticks])
    said = "; ".join(_summary(name, turns) for name, turns in timed.items())
    return _svg(axes, f"Median ms per call over time, scope {scope}, {setting}", said)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Places values in a lane; it holds at least ± 2 % of the median, in which noise looks small.

    Attributes:
        ends: place and value of both ends, which get ticks.
    """

    ends: tuple[tuple[float, float], tuple[float, float]]

    @classmethod
    def of(cls, lane: int, values: Sequence[float]) -> _Scale:
        middle = float(np.median(values))
        low, high = min(*values, 0.98 * middle), max(*values, 1.02 * middle)
        return cls(((LANE * (lane + 1) - 5, low), (LANE * lane + 30, high)))

    def place(self, value: float) -> float:
        (bottom, low), (top, high) = self.ends
        return float(np.interp(value, (low, high), (bottom, top)))


def _draw_turns(axes: Axes, scale: _Scale, turns: Sequence[Turn], colour: str) -> None:
    """Dots, with triangles if disturbed, squares if throttled, and crosses if not counted."""
    places = [(turn.start_s, scale.place(_median_ms(turn))) for turn in turns]
    dots = [place for turn, place in zip(turns, places, strict=True) if turn.counted]
    axes.plot(*np.reshape(dots, (-1, 2)).T, color=SOFT, linewidth=1)
    axes.plot(*np.reshape(dots, (-1, 2)).T, "o", color=colour)
    for turn in _odd(turns):
        place = turn.start_s, scale.place(_median_ms(turn))
        kinds = ["throttled" if "throttled" in turn.marks else "disturbed"] if turn.marks else []
        for kind in (*kinds, *(() if turn.counted else ("not counted",))):
            axes.plot(*place, color=INK, **_TURNS[kind], gid=_tip(_turn(turn)))
