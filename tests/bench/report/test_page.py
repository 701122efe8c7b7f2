"""The page of a record: whole, self-contained, and with the figures of the record."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest

from bench.record import (
    REFERENCE,
    Accuracy,
    Footprint,
    Picture,
    Report,
    Row,
    Setting,
    Subject,
    Telemetry,
    Timing,
)
from bench.report.page.page import cards, html_page
from tests.support.html_reading import Page, cell, near
from tests.support.sample_reports import sample_report

LONG = "mine_a_rather_long_third_party_backend_name-int8-per-channel-with-equalisation"
MANY = {
    REFERENCE: (86.0, 0.66, 3.1),
    LONG: (1.2, 0.65, 1.0),
    **{f"backend{n}-fp{n % 3}": (50.0 / (n + 1), 0.6 + n / 1000, 2.0) for n in range(6)},
}


def with_rows(report: Report, *rows: Row) -> Report:
    return replace(report, rows=rows)


def marked(report: Report, number: int, *marks: str, counted: bool) -> Report:
    """The report with the first turn of a row's host scope marked."""
    row = report.rows[number]
    first, *others = row.timings[0].turns
    turns = (replace(first, marks=marks, counted=counted), *others)
    timings = (replace(row.timings[0], turns=turns), *row.timings[1:])
    rows = list(report.rows)
    rows[number] = replace(row, timings=timings)
    return replace(report, rows=tuple(rows))


def without_telemetry(report: Report) -> Report:
    def bare(timing: Timing) -> Timing:
        turns = tuple(replace(turn, telemetry=Telemetry()) for turn in timing.turns)
        return replace(timing, turns=turns)

    rows = (replace(row, timings=tuple(map(bare, row.timings))) for row in report.rows)
    return replace(report, rows=tuple(rows))


def unlabelled() -> Report:
    report = sample_report(labelled=False, dataset="frames", split="")
    rows = (
        replace(row, accuracy=replace(row.accuracy, score=None) if row.accuracy else None)
        for row in report.rows
    )
    return replace(report, rows=tuple(rows))


REPORTS = {
    "plain": sample_report(),
    "many rows and settings": sample_report(
        MANY, settings=(Setting((512, 1024), 4), Setting((360, 480), 1, 4))
    ),
    "single": sample_report({REFERENCE: (86.0, 0.66, 3.1)}),
    "nothing ran": sample_report({REFERENCE: None, "tensorrt-fp16": None}),
    "no rows": with_rows(sample_report()),
    "unlabelled": unlabelled(),
    "no telemetry": without_telemetry(sample_report(peaks=None, harness_ns=None)),
    "incomplete": sample_report(complete=False),
    "bare row": with_rows(sample_report(), Row("mine-x", Setting((8, 8)), accuracy=Accuracy())),
    "marked": marked(sample_report(), 1, "disturbed", "throttled", counted=False),
}


@cache
def page_of(name: str) -> Page:
    """The page of one of ``REPORTS``, drawn once."""
    return Page(html_page(REPORTS[name]))


@pytest.mark.parametrize("name", REPORTS)
def test_the_page_is_well_formed_and_needs_nothing_else(name: str) -> None:
    page = page_of(name)
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    sections = {f"#{name}" for name in page.values("aria-labelledby")}
    assert sections <= set(page.values("href")) <= {f"#{name}" for name in ids}
    assert not page.values("src")
    assert "url(" not in page.styles and "@import" not in page.styles
    values = [value for _, attributes in page.tags for value in attributes.values() if value]
    assert not any("://" in value for value in values)
    assert all(part.startswith("#") for value in values for part in value.split("url(")[1:])
    names = {name for name, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "image"}
    assert all(row.name in page.text for row in REPORTS[name].rows)


@pytest.mark.parametrize("name", REPORTS)
def test_every_chart_is_read_out_and_drawn_whole(name: str) -> None:
    page = page_of(name)
    charts = [attributes for name, attributes in page.tags if name == "svg"]
    assert all(chart.get("aria-label") or chart.get("aria-hidden") for chart in charts)
    assert "nan" not in re.findall(r"[a-z]+", " ".join(page.values("d")))


@pytest.mark.parametrize(
    "settings", [(Setting((512, 1024)),), (Setting((8, 8), 2), Setting((8, 16)))]
)
def test_every_figure_of_the_table_is_that_of_the_record(settings: tuple[Setting, ...]) -> None:
    report = sample_report(settings=settings)
    page = Page(html_page(report))
    for row in report.rows:
        if row.reason:
            continue
        of = partial(cell, page, row)
        host, device = row.timing("host"), row.timing("device")
        assert host and host.latency and host.fps and device and device.latency
        assert near(of("FPS [95 %]"), host.fps.value, host.fps.low, host.fps.high, decimals=1)
        for name in ("p50", "p95", "p99"):
            assert near(of(f"{name} ms"), getattr(host.latency, f"{name}_ms"))
        assert near(of("device p50 ms"), device.latency.p50_ms)
        assert row.limit and row.limit.share and row.footprint.host_peak_bytes
        assert near(of("% of limit"), 100 * row.limit.share, decimals=0)
        assert near(of("limit ms"), 1000 * row.limit.seconds)
        assert near(of("host peak MB"), row.footprint.host_peak_bytes / 1e6, decimals=0)
        assert near(of("file MB"), row.footprint.artifact_bytes / 1e6)
        assert near(of("load s"), 0.3) and near(of("first call s"), 0.2)


def test_accuracy_and_what_is_relative_to_the_reference_are_those_of_the_record() -> None:
    report = sample_report()
    page = Page(html_page(report))
    for row in report.rows[:4]:
        of, score = partial(cell, page, row), row.accuracy and row.accuracy.score
        host = row.timing("host")
        assert score and host
        m, difference, ratio = score.miou, score.miou_difference, host.speed_ratio
        assert near(of("mIoU %"), 100 * m.value, 100 * m.low, 100 * m.high)
        assert near(of("category IoU %"), 80.0)
        assert near(of("pixels right %"), 100 * score.pixel_accuracy)
        if difference is None or ratio is None:
            shown = [of(h) for h in ("Δ to FP32 points [95 %]", "speed to PyTorch [95 %]")]
            assert [*shown, of("agrees %")] == ["reference", "reference", "–"]
            continue
        text = of("Δ to FP32 points [95 %]")
        assert near(text, *(100 * v for v in (difference.value, difference.low, difference.high)))
        text = of("speed to PyTorch [95 %]")
        assert near(text, ratio.value, ratio.low, ratio.high) and text.endswith(host.verdict)
        assert near(of("agrees %"), 99.5 if row.name.endswith("int8") else 99.95, decimals=3)


def test_the_protocol_of_the_paper_stands_apart() -> None:
    report = sample_report()
    row = report.rows[0]
    turns = tuple(replace(turn, start_s=0.0) for turn in row.timings[0].turns)
    timing = replace(row.timings[0], scope="paper", turns=turns)
    both = replace(row, timings=(*row.timings, timing))
    alone = Row("pytorch-paper", row.setting, timings=(timing,))
    page = Page(html_page(with_rows(report, both, *report.rows[1:], alone)))
    lines = [line for line in page.tables[0] if "(paper)" in line[0]]
    assert len(lines) == 2 and timing.fps and timing.latency
    for line in lines:
        shown = dict(zip(page.tables[0][0], line, strict=True))
        assert "not with other rows" in shown.pop("artifact")
        fps = timing.fps
        assert near(shown.pop("FPS [95 %]"), fps.value, fps.low, fps.high, decimals=1)
        assert near(shown.pop("p50 ms"), timing.latency.p50_ms)
        assert set(shown.values()) == {"–"}
    assert not any("pytorch-paper" in label for label in page.values("aria-label"))


def test_what_the_record_does_not_hold_is_a_dash() -> None:
    row = Row("mine-x", Setting((8, 8)), accuracy=Accuracy(), footprint=Footprint())
    (table,) = Page(html_page(with_rows(sample_report(), row))).tables
    assert table[1:] == [["mine-x", *["–"] * (len(table[0]) - 1)]]


def test_energy_of_a_frame_is_that_of_the_counted_turns() -> None:
    report = sample_report({REFERENCE: (86.0, 0.66, 3.1)}, settings=(Setting((8, 8), 4),))
    row = report.rows[0]
    turns = tuple(
        replace(turn, telemetry=Telemetry(gpu_energy_j=joules), counted=counted)
        for turn, joules, counted in zip(
            row.timings[0].turns, (1.0, 9e9, 2.0, 3.0), (True, False, True, True), strict=True
        )
    )
    row = replace(row, timings=(replace(row.timings[0], turns=turns),))
    page = Page(html_page(with_rows(report, row)))
    assert near(cell(page, row, "energy mJ/frame"), 1e3 * 6 / (3 * 12 * 4), decimals=1)


def test_text_of_the_record_cannot_become_markup() -> None:
    evil = "</style><script>alert(1)</script>\"'&<b onload=x>-e"
    plain = sample_report()
    rows = [replace(plain.rows[0], artifact=evil, manifest={evil: evil})]
    rows += [replace(row, name=evil, reason=evil if row.reason else "") for row in plain.rows[1:]]
    hurt = replace(
        plain,
        subjects=(Subject(evil, evil, evil, evil, evil, 1, {evil: 1}),),
        **dict.fromkeys(("dataset", "split", "started", "key"), evil),
        classes=(evil, "car", "person"),
        images=(evil,),
        environment={evil: evil},
        scenario={evil: evil},
        pictures=(Picture(evil, evil, evil),),
        rows=tuple(rows),
    )
    harmless = Page(html_page(hurt))
    allowed = {name for name, _ in Page(html_page(replace(plain, pictures=hurt.pictures))).tags}
    assert {name for name, _ in harmless.tags} <= allowed
    assert not any("onload" in attributes for _, attributes in harmless.tags)
    assert harmless.text.count(evil) > 20


def test_rows_that_did_not_run_for_one_reason_are_one_line_below_the_table() -> None:
    report = sample_report()
    stopped = replace(report.rows[1], reason="signal 9 in round 3")
    missing = [replace(report.rows[-1], name=f"tensorrt-{kind}") for kind in ("fp32", "int8")]
    page = Page(html_page(with_rows(report, report.rows[0], stopped, *missing)))
    said = "tensorrt-fp32, tensorrt-int8: not run: no CUDA driver; expected an NVIDIA GPU"
    assert page.text.count("no CUDA driver") == 1 and said in page.text
    assert not any(line[0].startswith("tensorrt") for table in page.tables for line in table)
    assert f"{stopped.name}: failed: signal 9 in round 3" in page.text
    assert page.tables[0][2][0].endswith("failed: see below")
    assert f"(see below the table): {stopped.name}, tensorrt-fp32, tensorrt-int8." in page.text


def test_highest_miou_goes_to_no_row_whose_difference_to_fp32_holds_0() -> None:
    def highest(rows: dict[str, tuple[float, float, float] | None]) -> tuple[str, ...]:
        report = sample_report({REFERENCE: (86.0, 0.66, 3.1), **rows})
        found = {title: said for title, *said in cards(report, report.settings[0])}
        return tuple(found["Highest mIoU"])

    # The interval of the sample reports is ±0.1 points.
    name, figure, more = highest({"a-fp32": (50.0, 0.6605, 3.1), "b-fp32": (40.0, 0.6602, 3.1)})
    assert (name, figure) == (REFERENCE, "66.00 [64.00, 68.00] %")
    assert more.endswith("2 rows do not differ from it beyond chance; fastest: b-fp32")
    rows = {"a-fp32": (50.0, 0.6605, 3.1), "b-fp32": (40.0, 0.6702, 3.1)}
    assert highest(rows)[0] == "b-fp32"
    assert highest({"a-fp32": (50.0, 0.6505, 3.1)})[0] == REFERENCE


def test_an_incomplete_record_is_called_so() -> None:
    assert "⚠ INCOMPLETE: the run was stopped" in page_of("incomplete").text
    assert "⚠" not in page_of("plain").text


def test_marked_turns_are_seen_at_the_top_in_the_table_and_in_their_chart() -> None:
    counted = Page(html_page(marked(sample_report(), 1, "throttled", counted=True)))
    said = "⚠ ‡ THROTTLED, with the number of rounds that count in spite of it: onnxruntime-fp32"
    assert f"{said} (host: 1): do not quote these speeds" in counted.text
    assert "faster; mIoU 0.00 [−0.10, +0.10] points to FP32; ‡ turns marked" in counted.text
    assert "‡ turns marked: host 1 of 4" in counted.tables[0][2][0]
    repeated = Page(html_page(marked(sample_report(), 1, "disturbed", counted=False)))
    assert "⚠" not in repeated.text and "1 more repeated because" in repeated.text
    labels = repeated.values("aria-label")
    (said,) = (label for label in labels if "(disturbed, not counted)" in label)
    assert "medians of 4 turns" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"overlap": ("street_003",)}, "calibrated on 1 of the 8 images that it is scored on"),
        ({"calibrated_on": "unknown images"}, "it may be scored on them"),
        ({"trained_on": "camvid trainval"}, "trained on camvid trainval, which holds images"),
    ],
)
def test_a_score_on_images_that_it_has_seen_is_marked(change: dict[str, object], said: str) -> None:
    report = sample_report()
    row = report.rows[2]
    assert row.accuracy
    row = replace(row, accuracy=replace(row.accuracy, **change))  # type: ignore[arg-type]
    page = Page(html_page(with_rows(report, report.rows[0], row)))
    alert = page.text.partition("⚠")[2].partition("⚠")[0]
    assert said in alert
    assert "†" in cell(page, row, "mIoU %")


def test_pictures_are_inside_the_page_and_missing_ones_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "bench"
    folder.mkdir()
    picture = b"\x89PNG\r\n\x1a\npicture"
    (folder / "a.png").write_bytes(picture)
    (folder / "text.png").write_bytes(b"no picture")
    (tmp_path / "secret.png").write_bytes(b"secret")
    shown = {
        "image": "a.png",
        "truth": "gone.png",
        "x": "../secret.png",
        "y": "a.exe",
        "z": "text.png",
    }
    report = sample_report(pictures=tuple(Picture("s", what, at) for what, at in shown.items()))
    page = Page(html_page(report, folder))
    assert page.values("src") == ["data:image/png;base64," + base64.b64encode(picture).decode()]
    assert page.values("alt") == ["s: image"]
    lost = "gone.png (s, truth), ../secret.png (s, x), a.exe (s, y)"
    assert f"Pictures that are not beside the record{lost}" in page.text
