"""Charts: marks stand where the record says, names on nothing else, and markup stays markup."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.record import REFERENCE, Report, Row, Setting, Telemetry, Turn
from bench.record.timing import latency
from bench.report.page import charts
from tests.support.html_reading import Page
from tests.support.sample_reports import SETTING, sample_report

EVIL = "a</title></svg><script>alert(1)</script>\"'& $x^2$ \\frac\n\x00\u202e-" + 60 * "e"
Draw = Callable[[Report], str]
DRAWN: tuple[Draw, ...] = tuple(
    partial(chart, scope="host", setting=SETTING)
    for chart in (charts.scatter, charts.latencies, charts.rounds)
)
each = pytest.mark.parametrize("draw", DRAWN, ids=("scatter", "latencies", "rounds"))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The axes of the charts that the test draws."""
    found: list[Axes] = []
    svg = charts._svg

    def kept(axes: Axes, title: str, said: str) -> str:
        found.append(axes)
        return svg(axes, title, said)

    monkeypatch.setattr(charts, "_svg", kept)
    return found


def with_turns(row: Row, change: Callable[[Turn], Turn]) -> Row:
    timings = []
    for timing in row.timings:
        turns = tuple(map(change, timing.turns))
        timings.append(replace(timing, turns=turns, latency=latency(turns)))
    return replace(row, timings=tuple(timings))


def lines(axes: Axes, marker: str) -> list[Line2D]:
    """Those of the record; the mark of a name may lie outside the axes."""
    return [line for line in axes.get_lines() if line.get_marker() == marker and line.get_clip_on()]


def data(line: Line2D) -> tuple[list[float], list[float]]:
    return list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))  # type: ignore[arg-type]


# --- axes -------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
def test_an_axis_holds_its_values_and_its_ticks_are_apart(values: list[float]) -> None:
    axes = Figure().add_subplot()
    charts.fit(axes, "x", values)
    low, high = axes.get_xlim()
    assert low < min(values) and max(values) < high
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert len(ticks) <= 12 and ticks == sorted(ticks)
    texts = axes.xaxis.get_major_formatter().format_ticks(ticks)
    assert len(set(texts)) == len(texts) or max(map(abs, values)) > 1e4 * np.ptp(values)
    assert not any("$" in text for text in texts)


@pytest.mark.parametrize(
    ("values", "scale"),
    [((1, 5), "log"), ((1, 3), "linear"), ((0, 9), "linear"), ((-1, 9), "linear"), ((2, 2), None)],
)
def test_an_axis_is_logarithmic_where_the_values_span_more_than_four_fold(
    values: tuple[float, float], scale: str | None
) -> None:
    axes = Figure().add_subplot()
    charts.fit(axes, "y", values)
    assert axes.get_yscale() == (scale or "linear")


# --- accuracy against speed -------------------------------------------------------------------


def test_a_point_and_its_intervals_stand_where_the_record_says(made: list[Axes]) -> None:
    report = sample_report()
    root = ElementTree.fromstring(charts.scatter(report, "host", SETTING))
    axes = made[0]
    bars = [*map(data, lines(axes, "|")), *map(data, lines(axes, "_"))]
    marks = {g.findtext("title"): g.find(".//use") for g in root.iter("g")}
    drawn = charts.points(report, "host", SETTING)
    height = float(root.attrib["viewBox"].split()[-1])
    assert len(drawn) == 4
    for row, point in zip(report.rows, drawn, strict=False):
        timing = row.timing("host")
        assert timing and timing.fps and row.accuracy and row.accuracy.score
        fps, miou = timing.fps, row.accuracy.score.miou
        x, y = axes.transData.transform((fps.value, 100 * miou.value))
        mark = marks[str(point)]
        assert mark is not None
        place = float(mark.attrib["x"]), float(mark.attrib["y"])
        assert place == pytest.approx((x, height - y), abs=0.06)
        assert ([fps.low, fps.high], [100 * miou.value] * 2) in bars
        assert ([fps.value] * 2, [100 * miou.low, 100 * miou.high]) in bars


def test_the_stairs_are_the_pareto_front(made: list[Axes]) -> None:
    report = sample_report(
        {REFERENCE: (100, 0.7, 1), "a-x": (50, 0.6, 1), "b-x": (80, 0.5, 1), "c-x": (25, 0.65, 1)}
    )
    said = Page(charts.scatter(report, "host", SETTING)).values("aria-label")[0]
    slow, fast = (p for p in charts.points(report, "host", SETTING) if p.name in (REFERENCE, "c-x"))
    x, y = data(made[0].get_lines()[0])
    assert charts.front(charts.points(report, "host", SETTING)) == [slow, fast]
    assert said.endswith("On the Pareto front: pytorch-fp32, c-x.")
    assert x[1:] == [slow.fps.value, slow.fps.value, fast.fps.value, fast.fps.value]
    assert y[:-1] == pytest.approx([70, 70, 65, 65])


def test_the_label_says_the_figures() -> None:
    report = sample_report()
    said = Page(charts.scatter(report, "device", SETTING)).values("aria-label")[0]
    timing = report.rows[1].timing("device")
    assert timing and timing.fps
    assert f"onnxruntime-fp32: FPS {timing.fps.value:.1f} [{timing.fps.low:.1f}, " in said
    assert "mIoU % 66.31 [64.31, 68.31]" in said
    assert "tensorrt" not in said


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.floats(1, 200), st.floats(0.3, 0.7)), min_size=1, max_size=8))
def test_names_stand_inside_the_chart_and_on_no_other_name(
    figures: list[tuple[float, float]],
) -> None:
    rows = {f"backend{n}-fp32": (ms, miou, 1.0) for n, (ms, miou) in enumerate(figures)}
    report = sample_report({REFERENCE: (86.0, 0.66, 3.1), **rows})
    root = ElementTree.fromstring(charts.scatter(report, "host", SETTING))
    texts = [t for t in root.iter("text") if (t.text or "").endswith("-fp32")]
    places = [(float(t.attrib["x"]), float(t.attrib["y"])) for t in texts]
    assert len(places) == len(rows) + 1
    least = 6.5 * len(REFERENCE)
    assert all(x >= 0 and x + least <= charts.WIDTH for x, _ in places)
    for (x1, y1), (x2, y2) in itertools.combinations(places, 2):
        assert abs(y1 - y2) >= 12 or abs(x1 - x2) >= least


def test_speed_is_compared_on_the_host_where_any_row_has_it() -> None:
    report = sample_report()
    device = replace(report, rows=tuple(replace(r, timings=r.timings[1:]) for r in report.rows))
    assert charts.chart_scope(report, SETTING) == "host"
    assert charts.chart_scope(device, SETTING) == "device"


# --- latencies --------------------------------------------------------------------------------


def test_only_counted_turns_are_in_the_distribution() -> None:
    report = sample_report()
    row = report.rows[0]
    first, *others = row.timings[0].turns
    slow = replace(first, samples_ns=(10**12,), counted=False)
    turns = (slow, *others)
    timing = replace(row.timings[0], turns=turns, latency=latency(turns))
    ms = charts.counted_ms(timing)
    assert len(ms) == 36 and ms[-1] < 1e3
    report = replace(report, rows=(replace(row, timings=(timing,)),))
    p50, p99 = np.percentile(ms, (50, 99))
    said = Page(charts.latencies(report, "host", SETTING)).values("aria-label")[0]
    assert f"p50 {p50:.2f} ms" in said and f"p99 {p99:.2f} ms, 36 calls" in said


def test_box_percentiles_and_slowest_calls_stand_where_the_samples_say(made: list[Axes]) -> None:
    report = sample_report({REFERENCE: (86.0, 0.66, 3.1)})
    samples = tuple(range(10**6, 10**6 + 10**7, 10**4))  # a thousand, from 1 to 11 ms
    rows = [with_turns(report.rows[0], lambda turn: replace(turn, samples_ns=samples))]
    assert charts.latencies(replace(report, rows=tuple(rows)), "host", SETTING)
    axes = made[0]
    ms = np.sort(np.tile(samples, 4)) / 1e6
    p25, p50, p75, p95, p99 = np.percentile(ms, (25, 50, 75, 95, 99))
    box = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (box.x0, box.x1) == pytest.approx((p25, p75))
    assert data(lines(axes, "|")[-1])[0] == pytest.approx([p50])
    heads = {line.get_fillstyle(): data(line)[0] for line in lines(axes, "v")}
    assert heads == {"none": [pytest.approx(p95)], "full": [pytest.approx(p99)]}
    whisker, strip = (data(line)[0] for line in lines(axes, "None"))
    assert whisker == [ms[0], ms[-1]]
    assert {ms[0], *ms[-20:]} <= set(strip) and len(set(strip)) < 130


# --- turns over time --------------------------------------------------------------------------


def marked_report() -> Report:
    """A report with a turn of each kind, and clocks."""

    def change(turn: Turn) -> Turn:
        clocks = Telemetry(cpu_mhz=3000.0 + turn.round, gpu_mhz=1500.0, throttled=())
        marks = {1: ("disturbed",), 2: ("disturbed", "throttled")}.get(turn.round, ())
        return replace(turn, telemetry=clocks, marks=marks, counted=turn.round != 1)

    report = sample_report({REFERENCE: (86.0, 0.66, 3.1), "a-x": (20.0, 0.66, 3.1)})
    return replace(report, rows=(report.rows[0], with_turns(report.rows[1], change)))


def test_a_turn_stands_at_its_time_and_its_mark_says_what_disturbed_it(made: list[Axes]) -> None:
    report = marked_report()
    charts.rounds(report, "host", SETTING)
    axes, turns = made[0], report.rows[1].timings[0].turns
    low, high = (float(text.get_text()) for text in axes.get_yticklabels()[2:4])
    ends = axes.get_yticks()[2:4]

    def places(line: Line2D) -> list[tuple[float, float]]:
        x, y = data(line)
        ms = low + (high - low) * (np.array(y) - ends[0]) / (ends[1] - ends[0])
        return list(zip(x, ms, strict=True))

    true = [(turn.start_s, float(np.median(turn.samples_ns)) / 1e6) for turn in turns]
    (triangle,), (square,), (cross,) = (lines(axes, marker) for marker in "^sx")
    dots = next(line for line in lines(axes, "o") if len(data(line)[0]) == 3)
    assert np.array(places(dots)) == pytest.approx(np.array(true)[[0, 2, 3]], rel=1e-3)
    assert np.array(places(triangle)) == pytest.approx(np.array(true)[[1]], rel=1e-3)
    assert np.array(places(square)) == pytest.approx(np.array(true)[[2]], rel=1e-3)
    assert data(cross) == data(triangle)
    assert square.get_markerfacecolor() != dots.get_markerfacecolor()


def test_noise_fills_no_lane(made: list[Axes]) -> None:
    report = sample_report({REFERENCE: (86.0, 0.66, 3.1)})
    row = with_turns(report.rows[0], lambda turn: replace(turn, samples_ns=(10**7 + turn.round,)))
    charts.rounds(replace(report, rows=(row,)), "host", SETTING)
    assert [text.get_text() for text in made[0].get_yticklabels()[:2]] == ["9.8", "10.2"]


def test_a_marked_turn_is_read_out_and_so_is_the_range() -> None:
    report = marked_report()
    page = Page(charts.rounds(report, "host", SETTING))
    said = page.values("aria-label")[0]
    turn = report.rows[1].timings[0].turns[1]
    text = f"round 1 at {turn.start_s:.1f} s: {np.median(turn.samples_ns) / 1e6:.2f} ms"
    assert said.count("pytorch-fp32: medians of 4 turns") == 1
    assert said.count(f"{text} (disturbed, not counted)") == 1
    assert said.count("(disturbed, throttled)") == 1 and "round 0" not in said
    assert page.text.count(f"{text} (disturbed, not counted)") == 2  # by pointing at its marks


def test_rows_share_the_time_axis_and_each_known_clock_has_a_lane(made: list[Axes]) -> None:
    report = marked_report()
    drawn = charts.rounds(report, "host", SETTING)
    starts = [turn.start_s for row in report.rows for turn in row.timings[0].turns]
    low, high = made[0].get_xlim()
    assert low < min(starts) and max(starts) < high and len(made) == 1
    assert drawn.count("CPU clock, MHz") == drawn.count("GPU clock, MHz") == 2  # with its tooltip
    ticks = [text.get_text() for text in made[0].get_yticklabels()]
    assert len(ticks) == 8 and ticks[6:] == ["1470", "1530"]
    clocks = [line for line in lines(made[0], "o") if line.get_markersize() == 3]
    assert [len(data(line)[0]) for line in clocks] == [4, 4, 0, 4]


def test_without_clocks_no_lane_is_drawn_for_them(made: list[Axes]) -> None:
    report = sample_report({REFERENCE: (86.0, 0.66, 3.1)})
    row = with_turns(report.rows[0], lambda turn: replace(turn, telemetry=Telemetry()))
    assert charts.rounds(replace(report, rows=(row,)), "host", SETTING)
    assert len(made[0].get_yticks()) == 2


# --- looks ------------------------------------------------------------------------------------


def test_colour_and_shape_say_the_backend_and_the_filling_says_the_variant() -> None:
    rows = dict.fromkeys((REFERENCE, "pytorch-int8", "a-fp32", "a-int8", "b-fp32"), None)
    found = charts.looks(sample_report(rows))
    one, two, other, others, third = (look.marker for look in found.values())
    assert one["color"] == two["color"] and one["marker"] == two["marker"]
    assert one["fillstyle"] == other["fillstyle"] != two["fillstyle"] == others["fillstyle"]
    assert len({look["color"] for look in (one, other, third)}) == 3
    assert len({look["marker"] for look in (one, other, third)}) == 3
    assert found["a-int8"].colour == "var(--k1)"
    assert len({look.sign for look in found.values()}) == 5


def test_a_sign_is_a_drawing_within_its_box() -> None:
    rows = {f"backend{n}-{m}": None for n in range(9) for m in range(7)}
    for look in charts.looks(sample_report(rows)).values():  # type: ignore[arg-type]
        root = ElementTree.fromstring(look.sign)
        numbers = re.findall(r"[\d.]+", " ".join(path.attrib["d"] for path in root.iter("path")))
        assert root.attrib["aria-hidden"] == "true" and len(numbers) > 5
        assert all(0 <= float(number) <= 16 for number in numbers)


# --- the page ---------------------------------------------------------------------------------


@each
def test_a_chart_is_an_element_for_a_page_and_nothing_more(draw: Draw) -> None:
    chart = draw(marked_report())
    root = ElementTree.fromstring(chart)  # no prolog, no namespace
    assert chart.startswith("<svg ") and root.attrib["role"] == "img"
    names = {node.tag for node in root.iter()}
    assert names <= {"svg", "title", "g", "path", "text", "use", "defs"}
    width, height = map(int, root.attrib["viewBox"].split()[2:])
    assert width == charts.WIDTH and height > 0
    styles = "".join(node.attrib.get("style", "") for node in root.iter())
    assert "#" not in styles and "font" not in styles and "url" not in styles
    assert "currentColor" in styles and root.attrib["font-size"] == "13"
    assert not re.search(r"nan|inf", " ".join(node.attrib.get("d", "") for node in root.iter()))


@each
def test_the_same_record_gives_the_same_chart_and_leaves_matplotlib_as_it_was(draw: Draw) -> None:
    before = dict(matplotlib.rcParams.copy())  # of a copy: reading it may choose a backend
    assert draw(sample_report()) == draw(sample_report())
    assert dict(matplotlib.rcParams.copy()) == before


def test_ids_are_unique_on_a_page_of_all_charts() -> None:
    other = Setting((8, 16), 2)
    report = sample_report(settings=(SETTING, other))
    page = Page(
        "".join(draw(report) for draw in DRAWN)
        + charts.scatter(report, "device", SETTING)
        + charts.scatter(report, "host", other)
    )
    ids = page.values("id")
    assert ids and len(set(ids)) == len(ids)
    assert {f"#{name}" for name in ids} == set(page.values("href"))


@each
def test_a_name_cannot_become_markup_or_a_formula_or_change_the_layout(draw: Draw) -> None:
    plain, names = sample_report(), (REFERENCE, EVIL, f"{EVIL}2", f"{EVIL}3", "漢字-e\u0301")
    rows = (replace(row, name=n) for row, n in zip(plain.rows, names, strict=True))
    hurt, harmless = (
        ElementTree.fromstring(draw(r)) for r in (replace(plain, rows=tuple(rows)), plain)
    )
    assert {node.tag for node in hurt.iter()} == {node.tag for node in harmless.iter()}
    assert hurt.attrib["viewBox"] == harmless.attrib["viewBox"]
    texts = [text.text or "" for text in hurt.iter("text")]
    assert any(text.startswith("a</title") for text in texts)
    assert all(len(text) <= 46 and text.isprintable() for text in texts)
    said = hurt.attrib["aria-label"] + "".join(hurt.itertext())
    assert "$x^2$ \\frac\ufffd\ufffd\ufffd-e" in said and said.isprintable()


@each
def test_where_nothing_was_measured_nothing_is_drawn(draw: Draw) -> None:
    assert draw(sample_report({REFERENCE: None, "tensorrt-fp16": None})) == ""
    assert draw(replace(sample_report(), rows=())) == ""
    assert draw(sample_report(settings=(Setting((8, 8)),))) == ""


def test_a_row_without_fps_or_labels_is_in_no_scatter_but_in_the_others() -> None:
    report = sample_report({REFERENCE: (86.0, 0.66, 3.1)})
    row = report.rows[0]
    bare = replace(report, rows=(replace(row, accuracy=None),))
    slow = replace(row, timings=tuple(replace(t, fps=None) for t in row.timings))
    for hurt in (bare, replace(report, rows=(slow,))):
        assert charts.scatter(hurt, "host", SETTING) == ""
        assert charts.latencies(hurt, "host", SETTING) and charts.rounds(hurt, "host", SETTING)
