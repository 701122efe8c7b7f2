"""The page of a record: whole, self-contained, and with the figures of the record."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench.page.html_page import html_page
from bench.record import (
    REFERENCE,
    Accuracy,
    Footprint,
    Picture,
    Report,
    Row,
    Setting,
    Telemetry,
    Timing,
)
from tests.support.html_reading import Page, cell, near
from tests.support.sample_reports import sample_report

LONG = "mine_a_rather_long_third_party_backend_name-int8-per-channel-with-equalisation"
MANY = {
    REFERENCE: (86.0, 0.66, 3.1),
    LONG: (1.2, 0.65, 1.0),
    **{f"backend{n}-fp{n % 3}": (50.0 / (n + 1), 0.6 + n / 1000, 2.0) for n in range(10)},
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
        MANY, settings=(Setting((512, 1024)), Setting((512, 1024), 4), Setting((360, 480), 1, 4))
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


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_the_page_is_well_formed_and_needs_nothing_else(report: Report) -> None:
    page = Page(html_page(report))
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    assert set(page.values("aria-labelledby")) <= set(ids)
    assert {f"#{name}" for name in ids} == set(page.values("href"))
    assert not page.values("src")
    assert "url(" not in page.styles and "@import" not in page.styles
    assert "://" not in "".join(page.values("style"))
    names = {name for name, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "use", "image"}
    charts = [attributes for name, attributes in page.tags if name == "svg"]
    assert all(chart.get("aria-label") or chart.get("aria-hidden") for chart in charts)
    assert "nan" not in re.findall(r"[a-z]+", " ".join(page.values("d")))
    assert all(row.name in page.text for row in report.rows)


@pytest.mark.parametrize(
    "settings", [(Setting((512, 1024)),), (Setting((8, 8), 2), Setting((8, 16)))]
)
def test_every_figure_of_the_table_is_that_of_the_record(settings: tuple[Setting, ...]) -> None:
    report = with_paper(sample_report(settings=settings))
    page = Page(html_page(report))
    for row in report.rows:
        if row.reason:
            continue
        score, number = row.accuracy and row.accuracy.score, settings.index(row.setting)
        host, device, paper = (row.timing(scope) for scope in ("host", "device", "paper"))
        assert score and host and host.latency and host.fps and device and device.latency and paper

        def of(group: str, heading: str, row: Row = row, number: int = number) -> str:
            return cell(page, row, group, heading, number)

        m, difference = score.miou, score.miou_difference
        assert near(of("accuracy", "mIoU %"), 100 * m.value, 100 * m.low, 100 * m.high)
        if difference is None:
            assert of("accuracy", "Δ to FP32, points") == "reference"
            assert of("speed, scope host", "speed to PyTorch") == "reference"
            assert of("accuracy", "agrees with FP32 %") == "–"
        else:
            d, ratio = difference, host.speed_ratio
            assert ratio
            text = of("accuracy", "Δ to FP32, points")
            assert near(text, 100 * d.value, 100 * d.low, 100 * d.high)
            text = of("speed, scope host", "speed to PyTorch")
            assert near(text, ratio.value, ratio.low, ratio.high)
            assert text.endswith(host.verdict)
            assert near(of("accuracy", "agrees with FP32 %"), 99.5, decimals=3)
        assert near(of("accuracy", "category IoU %"), 80.0)
        assert near(of("accuracy", "pixels right %"), 100 * score.pixel_accuracy)
        fps = host.fps
        assert near(of("speed, scope host", "FPS"), fps.value, fps.low, fps.high, decimals=1)
        assert near(of("speed, scope host", "p50 ms"), host.latency.p50_ms)
        assert near(of("speed, scope host", "p95 ms"), host.latency.p95_ms)
        assert near(of("speed, scope host", "p99 ms"), host.latency.p99_ms)
        assert near(of("scope device", "p50 ms"), device.latency.p50_ms)
        assert row.limit and row.limit.share and row.footprint.host_peak_bytes
        assert near(of("scope device", "of the limit %"), 100 * row.limit.share, decimals=1)
        assert near(of("cost", "host MB"), row.footprint.host_peak_bytes / 1e6, decimals=0)
        assert near(of("cost", "file MB"), row.footprint.artifact_bytes / 1e6)
        assert near(of("cost", "load s"), 0.3) and near(of("cost", "first call s"), 0.2)
        assert near(of("another protocol: paper", "FPS"), 7.0, 6.0, 8.0, decimals=1)


def with_paper(report: Report) -> Report:
    """The report with a third scope in each row that ran."""
    rows = []
    for row in report.rows:
        timings = row.timings
        if timings and timings[1].fps:
            fps = replace(timings[1].fps, value=7.0, low=6.0, high=8.0)
            timings += (replace(timings[1], scope="paper", fps=fps),)
        rows.append(replace(row, timings=timings))
    return replace(report, rows=tuple(rows))


def test_the_protocol_of_the_paper_stands_apart() -> None:
    report = sample_report()
    row = report.rows[0]
    turns = tuple(replace(turn, start_s=0.0) for turn in row.timings[0].turns)
    timing = replace(row.timings[0], scope="paper", turns=turns)
    paper = Row("pytorch-paper", row.setting, timings=(timing,))
    page = Page(html_page(with_rows(report, *report.rows, paper)))
    line = page.tables[0][-1]
    assert timing.fps and len(line) == 2
    assert near(line[1], timing.fps.value, timing.fps.low, timing.fps.high, decimals=1)
    assert "not with other rows" in line[1]
    assert "another protocol: paper" not in page.tables[0][0]
    charts = [label for label in page.values("aria-label") if not label.startswith("dabnet")]
    assert not any("pytorch-paper" in label for label in charts)


def test_what_the_record_does_not_hold_is_a_dash() -> None:
    row = Row("mine-x", Setting((8, 8)), accuracy=Accuracy(), footprint=Footprint())
    body = Page(html_page(with_rows(sample_report(), row))).tables[0][2:]
    assert body == [["mine-x", *["–"] * (len(body[0]) - 1)]]


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
    assert near(cell(page, row, "cost", "GPU mJ a frame"), 1e3 * 6 / (3 * 12 * 4), decimals=1)


def test_text_of_the_record_cannot_become_markup() -> None:
    evil = "</style><script>alert(1)</script>\"'&<b onload=x>-e"
    plain = sample_report()
    rows = [replace(plain.rows[0], artifact=evil, manifest={evil: evil})]
    rows += [replace(row, name=evil, reason=evil if row.reason else "") for row in plain.rows[1:]]
    hurt = replace(
        plain,
        **dict.fromkeys(("model", "checkpoint", "dataset", "split", "started", "key"), evil),
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


def test_rows_that_did_not_run_say_why() -> None:
    report = sample_report()
    stopped = replace(report.rows[1], reason="signal 9 in round 3")
    page = Page(html_page(with_rows(report, report.rows[0], stopped, report.rows[-1])))
    lines = page.tables[0]
    assert ["did not come to its end: signal 9 in round 3"] in lines
    assert ["tensorrt-fp16", "not run: no CUDA driver; expected an NVIDIA GPU"] in lines
    assert "2 of 3 rows did not run to their end" in page.text


def test_an_incomplete_record_is_called_so() -> None:
    assert "Incomplete record" in Page(html_page(sample_report(complete=False))).text
    assert "Incomplete record" not in Page(html_page(sample_report())).text


def test_marked_turns_are_seen_at_the_top_in_the_table_and_in_their_chart() -> None:
    counted = Page(html_page(marked(sample_report(), 1, "throttled", counted=True)))
    assert "Marked turns: Do not quote" in counted.text
    assert "onnxruntime-fp32 (throttled; host 1 of 4 turns)" in counted.text
    assert "faster; mIoU 0.00 [−0.10, +0.10] points to FP32; ▲ turns marked" in counted.text
    assert "▲ turns marked: host 1 of 4" in counted.tables[0][3][0]
    repeated = Page(html_page(marked(sample_report(), 1, "disturbed", counted=False)))
    assert "Marked turns" not in repeated.text and "Rounds repeated" in repeated.text
    charts = [label for label in repeated.values("aria-label") if label.startswith("Turns of")]
    assert sum("(disturbed, not counted)" in label for label in charts) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"overlap": ("street_003",)}, "calibrated on 1 of the 8 images that it is scored on"),
        ({"calibrated_on": "unknown images"}, "it may be scored on them"),
    ],
)
def test_calibration_on_scored_images_is_seen(change: dict[str, object], said: str) -> None:
    report = sample_report()
    row = report.rows[2]
    assert row.accuracy
    row = replace(row, accuracy=replace(row.accuracy, **change))  # type: ignore[arg-type]
    page = Page(html_page(with_rows(report, report.rows[0], row)))
    assert said in page.text
    assert "†" in cell(page, row, "accuracy", "mIoU %")


def test_pictures_are_inside_the_page_and_missing_ones_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "bench"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"picture")
    (tmp_path / "secret.png").write_bytes(b"secret")
    shown = {"image": "a.png", "truth": "gone.png", "x": "../secret.png", "y": "a.exe"}
    report = sample_report(pictures=tuple(Picture("s", what, at) for what, at in shown.items()))
    page = Page(html_page(report, folder))
    assert page.values("src") == ["data:image/png;base64," + base64.b64encode(b"picture").decode()]
    assert page.values("alt") == ["s: image"]
    lost = "gone.png (s, truth), ../secret.png (s, x), a.exe (s, y)"
    assert f"Pictures that are not beside the record: {lost}." in page.text
