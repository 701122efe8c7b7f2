"""Charts: the Pareto front, scales, where names stand, and which samples are drawn."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.page.charts import pareto_front, scatter, scatter_points
from bench.page.latency_charts import boxes, counted_ms
from bench.page.svg import CHARACTER, scale, styles, tick_texts
from bench.record import REFERENCE, Row
from bench.report.figures import number, signed
from tests.support.html_reading import Page
from tests.support.sample_reports import sample_report

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


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), st.integers(3, 9))
def test_a_scale_holds_its_values_and_its_ticks_are_apart(values: list[float], most: int) -> None:
    made = scale(values, 10.0, 200.0)
    assert all(10.0 - 1e-6 <= made(value) <= 200.0 + 1e-6 for value in values)
    ticks = made.ticks(most)
    places = [made(tick) for tick in ticks]
    assert len(ticks) <= most and places == sorted(places)
    assert all(9.99 <= place <= 200.01 for place in places)
    texts = tick_texts(ticks)
    assert len(set(texts)) == len(texts) or max(map(abs, values)) > 1e4 * np.ptp(values)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(1, 200), st.floats(0.3, 0.7)), min_size=1, max_size=8))
def test_names_stand_inside_the_chart_and_on_no_other_name(
    figures: list[tuple[float, float]],
) -> None:
    rows = {f"backend{n}-fp32": (ms, miou, 1.0) for n, (ms, miou) in enumerate(figures)}
    report = sample_report({REFERENCE: (86.0, 0.66, 3.1), **rows})
    page = Page(scatter(scatter_points(report.rows), styles(report), "host"))
    widths = [int((box or "").split()[2]) for box in page.values("viewbox")]
    drawn = [a for name, a in page.tags if name == "text" and a.get("class") == "label"]
    names = [len(name) for name in (p.name for p in scatter_points(report.rows))]
    assert len(drawn) == 2 * len(names)
    for width, labels in zip(widths, (drawn[: len(names)], drawn[len(names) :]), strict=True):
        places = [(float(a["x"] or 0), float(a["y"] or 0)) for a in labels]
        least = CHARACTER * min(names)
        assert all(x >= 0 and x + least <= width for x, _ in places)
        for (x1, y1), (x2, y2) in itertools.combinations(places, 2):
            assert abs(y1 - y2) >= 12 or abs(x1 - x2) >= least


def test_only_counted_turns_are_in_the_distribution() -> None:
    report = sample_report()
    row: Row = report.rows[0]
    first, *others = row.timings[0].turns
    slow = replace(first, samples_ns=(10**12,), counted=False)
    timing = replace(row.timings[0], turns=(slow, *others))
    ms = counted_ms(timing)
    assert len(ms) == 36 and ms[-1] < 1e3
    chart = boxes([replace(row, timings=(timing,))], styles(report), "host")
    assert chart is not None
    p50, p99 = np.percentile(ms, (50, 99))
    said = Page(chart).values("aria-label")[0]
    assert f"p50 {p50:.2f} ms" in said and f"p99 {p99:.2f} ms" in said
    assert boxes([row], styles(report), "paper") is None


def test_zero_has_no_sign() -> None:
    assert [number(value) for value in (-0.001, -1.5, None)] == ["0.00", "−1.50", "–"]
    assert [signed(value) for value in (0.001, -0.001, 1.5, -1.5)] == [
        "0.00",
        "0.00",
        "+1.50",
        "−1.50",
    ]
