"""A row whose masks are not the network's: marked in every report, never the best."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from bench.judgement.recommend import Bounds, recommend
from bench.record import Report, Row
from bench.report.columns import BROKEN, SPEED, is_broken, table
from bench.report.notes import int8_worth, notes
from bench.report.page import charts
from bench.report.page.page import cards, html_page
from bench.report.text import csv_text, markdown, print_report
from dabnet.precision import PRECISIONS
from tests.support.sample_reports import ROWS, SETTING, sample_report

FASTEST = "openvino-fp16"
LIKE = {**ROWS, FASTEST: (20.0, 0.089, 3.2), "openvino-bf16": (60.0, 0.6629, 3.2)}


def with_agreement(report: Report, name: str, share: float) -> Report:
    """The record in which the masks of one row equal the reference's on that share of pixels."""

    def changed(row: Row) -> Row:
        if row.name != name or row.accuracy is None:
            return row
        return replace(row, accuracy=replace(row.accuracy, agreement=(share,) * 8))

    return replace(report, rows=tuple(map(changed, report.rows)))


@pytest.fixture(scope="module")
def broken() -> Report:
    return with_agreement(sample_report(LIKE), FASTEST, 0.341)


@pytest.mark.parametrize("name", PRECISIONS)
def test_each_precision_has_its_limit(name: str) -> None:
    report = sample_report()
    known = PRECISIONS[name].sound_agreement
    for share, expected in ((known + 1e-6, False), (known - 1e-6, True)):
        row = with_agreement(report, "onnxruntime-fp32", share).rows[1]
        assert row.info is not None
        assert is_broken(replace(row, info=replace(row.info, precision=name))) is expected


def test_it_is_marked_in_every_report(broken: Report) -> None:
    marked, line = f"{FASTEST} {BROKEN}", f"{BROKEN} {FASTEST}: its masks equal"
    page, console = html_page(broken), Console(width=200)
    with console.capture() as capture:
        print_report(broken, console)
    for text in (capture.get(), markdown(broken), page):
        assert BROKEN in text and "34.10 % of pixels" in " ".join(text.split())
    assert marked in markdown(broken) and marked in page
    assert any(note.startswith(line) for note in notes(broken))
    (header, *lines) = csv_text(broken).splitlines()
    place = header.split(",").index("broken")
    assert {text.split(",")[0] for text in lines if text.split(",")[place] == "True"} == {FASTEST}
    names = [row.name for row in table(broken, SETTING, SPEED).rows]
    assert sum(BROKEN in name for name in names) == 1


def test_it_is_the_best_of_nothing(broken: Report) -> None:
    assert FASTEST not in [name for _, name, *_ in cards(broken, SETTING)]
    drawn = charts.points(broken, "host", SETTING)
    assert FASTEST in [point.name for point in drawn]
    assert FASTEST not in [point.name for point in charts.front(drawn)]
    chosen, lines = recommend(broken, SETTING, Bounds())
    assert chosen is not None and chosen.name != FASTEST
    assert any(f"not considered: {BROKEN} {FASTEST}" in line for line in lines)


@pytest.mark.parametrize(
    ("int8", "floats"),
    [
        ("onnxruntime-tensorrt-int8", "onnxruntime-tensorrt-fp16"),
        ("tensorrt-int8-cuda-graph", "tensorrt-fp16-cuda-graph"),
        ("tensorrt-int8-fp32", "tensorrt-fp16"),
    ],
)
def test_int8_is_compared_with_the_float_row_beside_it(int8: str, floats: str) -> None:
    rows = {**ROWS, floats: (10.0, 0.66, 3.0), int8: (70.0, 0.66, 1.0)}
    lines = [text for text in int8_worth(sample_report(rows)) if text.startswith(int8)]
    assert len(lines) == 1 and f"is slower than {floats}" in lines[0]


def test_int8_is_compared_with_the_fastest_sound_row(broken: Report) -> None:
    """bfloat16 is one, and the broken one is none."""
    rows = {**LIKE, "openvino-int8": (70.0, 0.66, 1.0)}
    report = with_agreement(sample_report(rows), FASTEST, 0.341)
    (line,) = [text for text in int8_worth(report) if text.startswith("openvino")]
    assert "is slower than openvino-bf16" in line
    assert "openvino-int8" not in str(int8_worth(with_agreement(report, "openvino-int8", 0.5)))
