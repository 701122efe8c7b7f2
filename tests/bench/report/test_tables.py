"""One record as tables for the terminal, Markdown and CSV: they say the same, and all of it."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.record import REFERENCE, UNKNOWN, Cache, Report, Row, Setting, Telemetry, Timing, Turn
from bench.record.file import read_record
from bench.record.timing import fps_of_turns, latency
from bench.report import columns
from bench.report.columns import COST, SPEED, Column, table
from bench.report.notes import notes
from bench.report.page.page import html_page
from bench.report.text import csv_text, layer_grid, markdown, print_report
from bench.report.write import write_report
from dabnet.runtime.runner import LayerTime
from tests.support.html_reading import Page, cell
from tests.support.sample_reports import CLASSES, IMAGES, ROWS, SETTING, sample_report

LARGE = Setting((512, 1024), batch=8, streams=2)
INT8 = "onnxruntime-int8"


def changed(report: Report, name: str, **changes: Any) -> Report:
    """The report with attributes of the rows of that name replaced."""
    rows = (dataclasses.replace(r, **changes) if r.name == name else r for r in report.rows)
    return dataclasses.replace(report, rows=tuple(rows))


def row_of(report: Report, name: str) -> Row:
    return next(row for row in report.rows if row.name == name)


def with_accuracy(report: Report, name: str, **changes: Any) -> Report:
    accuracy = row_of(report, name).accuracy
    assert accuracy is not None
    return changed(report, name, accuracy=dataclasses.replace(accuracy, **changes))


def with_turns(report: Report, name: str, **changes: Any) -> Report:
    """Its first turn of each scope changed."""
    timings = []
    for timing in row_of(report, name).timings:
        first = dataclasses.replace(timing.turns[0], **changes)
        timings.append(dataclasses.replace(timing, turns=(first, *timing.turns[1:])))
    return changed(report, name, timings=tuple(timings))


def printed(report: Report, width: int) -> str:
    text = io.StringIO()
    print_report(report, Console(file=text, width=width))
    return text.getvalue()


def cells(report: Report, name: str) -> dict[str, str]:
    speed = table(report, SETTING, SPEED)
    (line,) = (line for line in speed.lines if line[0] == name)
    return dict(zip(speed.headings, line, strict=True))


def test_a_row_shows_what_the_record_holds() -> None:
    report = sample_report()
    row = row_of(report, INT8)
    host, device = row.timing("host"), row.timing("device")
    assert host and host.latency and host.fps and host.speed_ratio and device and device.latency
    shown = cells(report, INT8)
    assert shown["mIoU %"] == "66.17" and shown["Δ to FP32 points [95 %]"] == "−0.14 [−0.24, −0.04]"
    assert shown["agrees %"] == "99.500"
    assert shown["FPS [95 %]"].startswith(f"{host.fps.value:.1f} [{host.fps.low:.1f}, ")
    assert shown["p95 ms"] == f"{host.latency.p95_ms:.2f}"
    assert shown["device p50 ms"] == f"{device.latency.p50_ms:.2f}"
    assert shown["speed to PyTorch [95 %]"].startswith(f"{host.speed_ratio.value:.2f}× [")
    assert shown["speed to PyTorch [95 %]"].endswith(host.verdict)
    assert shown["% of limit"] == "35"
    assert cells(report, REFERENCE)["speed to PyTorch [95 %]"] == "reference"


@pytest.mark.parametrize("width", [100, 130, 160])
def test_the_terminal_cuts_nothing_off(width: int) -> None:
    report = sample_report(settings=(SETTING, LARGE))
    text = printed(report, width)
    joined = "".join(text.split())
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines() if "  " in line.strip())
    for name, ran in ROWS.items():
        for figure in cells(report, name).values() if ran else ():
            assert all(part in joined for part in figure.split())
    for note in notes(report):
        assert "".join(note.split()) in joined
    assert text.count("tensorrt-fp16") == 2  # one line per setting, and no line in any table
    assert text.count("tensorrt-fp16: not run: no CUDA driver; expected an NVIDIA GPU") == 2
    assert "512x1024, batch 8, 2 streams" in text


def test_where_there_is_room_a_row_is_one_line() -> None:
    shown = cells(sample_report(), INT8)
    lines = printed(sample_report(), 190).splitlines()
    (line,) = (line for line in lines if "not told apart" in line)
    assert all(cell in line for cell in shown.values())


def test_equal_percentiles_are_both_shown() -> None:
    report = sample_report()
    timings = []
    for timing in row_of(report, INT8).timings:
        assert timing.latency is not None
        time = dataclasses.replace(timing.latency, p95_ms=91.5, p99_ms=91.5)
        timings.append(dataclasses.replace(timing, latency=time))
    report = changed(report, INT8, timings=tuple(timings))
    assert [printed(report, width).count("91.50") for width in (100, 150)] == [2, 2]


def test_markdown_has_every_cell_and_note() -> None:
    report = sample_report(settings=(SETTING, LARGE))
    text = markdown(report)
    for setting in report.settings:
        for grid in (table(report, setting, SPEED), table(report, setting, COST)):
            assert f"## {grid.title}\n" in text and grid.lines
            for line in grid.lines:
                assert "| " + " | ".join(line) + " |" in text
    assert all(f"| {name} | " in text for name in (*CLASSES, "category flat", "pixel accuracy"))
    assert "| car | 66.31 | 66.31 (0.00) | 66.17 (−0.14) | 66.30 (−0.01) |" in text
    assert text.count("## accuracy at 512x1024") == 1  # the same in both settings
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)


def test_foreign_text_is_no_markup() -> None:
    reason = "no <b>GPU</b> | none\nat [red]all[/red]"
    report = changed(sample_report(), "tensorrt-fp16", reason=reason)
    layers = LayerTime.ranked([("/block|1/Conv_*", "Conv", 0.02)])
    report = changed(report, INT8, layers=layers)
    assert "not run: no \\<b>GPU\\</b> | none at [red]all[/red]\n" in markdown(report)
    assert "| /block\\|1/Conv\\_\\* |" in markdown(report)
    assert "[red]all[/red]" in printed(report, 160)
    report = sample_report(dataset="![](http://a.org) [b]: c", split="[/red]:gun:")
    assert "![\\](http://a.org)" in markdown(report)
    assert "[b\\]: c [/red\\]:gun:" in markdown(report)
    assert "[b]: c [/red]:gun:" in printed(report, 160)


def test_csv_is_one_line_a_row_and_scope_in_base_units() -> None:
    report = sample_report()
    lines = list(csv.DictReader(io.StringIO(csv_text(report))))
    assert len(lines) == 2 * 4 + 1
    (line,) = (line for line in lines if (line["name"], line["scope"]) == (INT8, "device"))
    timing = row_of(report, INT8).timing("device")
    assert timing and timing.latency and timing.speed_ratio
    assert float(line["p50_s"]) == timing.latency.p50_ms / 1000
    assert float(line["miou"]) == 0.6617 and float(line["agreement"]) == pytest.approx(0.995)
    assert float(line["speed_ratio_low"]) == timing.speed_ratio.low
    assert (line["rounds"], line["rounds_repeated"], line["rounds_marked"]) == ("4", "0", "0")
    assert (line["height"], line["width"], line["batch"], line["streams"]) == (
        *("512", "1024", "1", "1"),
    )
    (missing,) = (line for line in lines if line["name"] == "tensorrt-fp16")
    assert missing["reason"].startswith("no CUDA driver")
    assert (missing["scope"], missing["p50_s"], missing["miou"]) == ("", "", "")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n@1"])
def test_no_cell_of_the_csv_is_a_formula(text: str) -> None:
    report = changed(sample_report(), INT8, reason=text, artifact=text)
    lines = list(csv.DictReader(io.StringIO(csv_text(report))))
    (line,) = (line for line in lines if (line["name"], line["scope"]) == (INT8, "device"))
    assert line["reason"].startswith("'") and line["artifact"] == line["reason"]
    assert float(line["miou_difference"]) < 0  # a number stays one


def test_the_paper_row_is_apart_and_has_neither_ratio_nor_tail() -> None:
    report = sample_report()
    turns = tuple(Turn(number, 0.0, 0.01, (10_000_000,)) for number in range(2))
    timing = Timing("paper", latency(turns), fps_of_turns(turns, 1), turns=turns)
    row = Row("pytorch-paper", SETTING, timings=(timing,))
    report = dataclasses.replace(report, rows=(*report.rows, row))
    shown = cells(report, "pytorch-paper (paper)")
    assert (shown["FPS [95 %]"], shown["p50 ms"]) == ("100.0 [100.0, 100.0]", "10.00")
    hidden = ("mIoU %", "p95 ms", "p99 ms", "device p50 ms", "speed to PyTorch [95 %]")
    assert {shown[heading] for heading in hidden} == {"–"}
    lines = notes(report)
    assert any("published frame rates, not with other rows" in note for note in lines)
    assert any(note.startswith("Speed: 4 interleaved rounds.") for note in lines)
    # The same of a row that has other scopes, too: a line more.
    both = changed(report, REFERENCE, timings=(*row_of(report, REFERENCE).timings, timing))
    assert cells(both, f"{REFERENCE} (paper)")["p50 ms"] == "10.00"
    assert cells(both, REFERENCE) == cells(report, REFERENCE)


def test_a_record_of_the_device_alone_says_so() -> None:
    report = sample_report()
    for row in report.rows:
        report = changed(report, row.name, timings=row.timings[1:])
    assert cells(report, f"{INT8} (device)")["p50 ms"] != "–"
    assert not any(note.startswith("Scope host") for note in notes(report))


def test_rows_that_fail_or_lack_labels_stay_rows() -> None:
    report = sample_report(labelled=False)
    report = with_accuracy(report, INT8, score=None)
    assert cells(report, INT8)["mIoU %"] == "–"
    report = changed(report, INT8, reason="timed out: no answer within 900 s in turn")
    assert f"- {INT8}: failed: timed out: no answer within 900 s in turn" in markdown(report)
    empty = Report(**{**_shallow(report), "rows": (), "harness_ns": None})
    assert markdown(empty) and printed(empty, 100) and len(csv_text(empty).splitlines()) == 1
    bare = Report(**{**_shallow(report), "rows": (Row("a", SETTING, timings=(Timing("host"),)),)})
    assert cells(bare, "a")["p50 ms"] == "–" and markdown(bare) and printed(bare, 100)


def _shallow(report: Report) -> dict[str, Any]:
    return {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}


def test_agreement_is_100_only_where_no_pixel_differs() -> None:
    report = with_accuracy(sample_report(), INT8, agreement=(1.0, 0.9999999))
    assert cells(report, INT8)["agrees %"] == "99.999"
    assert cells(with_accuracy(report, INT8, agreement=(1.0,)), INT8)["agrees %"] == "100.000"


def test_what_calibrated_a_row_is_told() -> None:
    report = with_accuracy(sample_report(), INT8, overlap=("street_001",))
    assert cells(report, INT8)["mIoU %"] == "66.17 †"
    assert any(
        note.startswith(f"† {INT8}: calibrated on 1 of the {len(IMAGES)} images")
        for note in notes(report)
    )
    report = with_accuracy(sample_report(), INT8, calibrated_on=UNKNOWN)
    assert f"† {INT8}: calibration images unknown: it may be scored on them." in notes(report)
    assert "†" not in markdown(sample_report())


def test_a_disturbed_round_is_told_and_a_repeated_one_counted() -> None:
    report = with_turns(sample_report(), INT8, marks=("disturbed",))
    assert cells(report, INT8)["p50 ms"].endswith(" ‡")
    lines = notes(report)
    (note,) = (note for note in lines if note.startswith("‡ DISTURBED"))
    assert f"{INT8} (host: 1), {INT8} (device: 1): do not quote these speeds; close" in note
    report = sample_report()
    for name in ROWS:
        report = with_turns(report, name, marks=("throttled",), counted=False)
    assert "‡" not in markdown(report)
    assert any("3 interleaved rounds, 1 more repeated because" in n for n in notes(report))


def test_a_card_that_is_shared_or_at_its_power_limit_is_told() -> None:
    """Of one turn alone, which nothing marks."""
    report = sample_report()
    assert not any("GPU" in note for note in notes(report))
    seen = Telemetry(gpu_foreign_share=0.04, clock_reasons=("GpuIdle", "SwPowerCap"))
    lines = notes(with_turns(report, INT8, telemetry=seen))
    many = 4 * 4 * 2  # rows that ran, turns, scopes
    assert (
        f"Clocks of the GPU were decided by GpuIdle (2), SwPowerCap (2), each with its number of"
        f" turns out of {many}; SwPowerCap is the power limit of the card." in lines
    )
    assert (
        "Other processes kept the GPU busy during 4.0 % of the timing (at most 4.0 % of one turn;"
        f" known of 2 turns out of {many})." in lines
    )


def test_the_limit_names_the_cache_that_it_uses() -> None:
    report = sample_report()
    assert not any("cache" in note for note in notes(report))
    assert report.peaks is not None
    peaks = dataclasses.replace(report.peaks, cache=Cache(50_000_000, 5.5e12))
    lines = notes(dataclasses.replace(report, peaks=peaks))
    assert any("(20.0 GB/s, 5500.0 GB/s within its cache of 50.0 MB, 110.0 G" in n for n in lines)


def test_notes_say_how_int8_was_computed_and_what_the_timer_adds() -> None:
    report = with_accuracy(sample_report(), INT8, timed_agreement=0.98765, timed_miou=0.6601)
    lines = notes(report)
    assert (
        f"{INT8}: accuracy in exact Q/DQ in float32; timed were other kernels: the same mask on"
        " 98.77 % of pixels (mIoU 66.01); calibrated on 48 images of toy-street train." in lines
    )
    assert any(note.startswith(f"{INT8} is slower than onnxruntime-fp32") for note in lines)
    assert any(
        note.startswith("The timer itself adds 0.9 µs to a call: 0.0019 %") for note in lines
    )
    stopped = dataclasses.replace(report, complete=False)
    assert notes(stopped)[0].startswith("INCOMPLETE")


def test_the_ten_longest_layers_of_each_row_are_one_table() -> None:
    layers = LayerTime.ranked([(f"conv_{i}", "Conv", 0.001 * (30 - i)) for i in range(30)])
    lines = layer_grid(changed(sample_report(), INT8, layers=layers)).lines
    shown = [line for line in lines if line[0] == INT8]
    assert [line[1] for line in shown] == [f"conv_{i}" for i in range(10)]
    assert shown[0][2:] == ("Conv", "30.00", "6.5")


def test_energy_is_of_a_frame_and_the_clock_of_what_computed() -> None:
    report = sample_report(settings=(LARGE,))
    row = row_of(report, REFERENCE)
    host = row.timing("host")
    assert host is not None and row.info is not None
    turns = tuple(
        dataclasses.replace(
            turn,
            telemetry=dataclasses.replace(turn.telemetry, gpu_energy_j=9.6, gpu_mhz=1905.0),
        )
        for turn in host.turns
    )
    timing = dataclasses.replace(host, turns=turns, latency=latency(turns))
    info = dataclasses.replace(row.info, device="NVIDIA GeForce GTX 1080 Ti")
    report = changed(report, REFERENCE, timings=(timing,), info=info)
    lines = table(report, LARGE, COST).lines
    assert lines[0][-2:] == ("100.0", "GPU 1.91")  # 9.6 J over 12 calls of 8 frames
    assert lines[1][-2:] == ("–", "CPU 3.00")


def test_a_new_column_is_one_line_and_stands_in_every_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    column = Column("calls_made", "calls", "k", "timing.latency.calls", "{:.3f}x".format, SPEED)
    monkeypatch.setattr(columns, "COLUMNS", (*columns.COLUMNS, column))
    report = sample_report()
    row = row_of(report, INT8)
    assert row.timings[0].latency and row.timings[0].latency.calls == 48
    lines = list(csv.DictReader(io.StringIO(csv_text(report))))
    assert {line["calls_made"] for line in lines} == {"48", ""}
    assert cells(report, INT8)["calls k"] == "48.000x"
    assert markdown(report).count("| 48.000x |") == printed(report, 100).count("48.000x") == 4
    page = Page(html_page(report))
    assert cell(page, row, "calls k") == "48.000x"


def test_what_does_not_fit_a_terminal_stands_in_a_second_table_with_the_names() -> None:
    report = sample_report({REFERENCE: (86.0, 0.66, 3.1)})
    headings = ("mIoU %", "p99 ms", "% of limit")
    wide, narrow = (printed(report, width).partition("cost:")[0] for width in (190, 90))
    assert wide.count("artifact") == wide.count(REFERENCE) == 1
    assert narrow.count("artifact") == narrow.count(REFERENCE) == 2
    assert all(text.count(heading) == 1 for heading in headings for text in (wide, narrow))


def test_rows_that_did_not_run_for_one_reason_are_one_line_in_every_text() -> None:
    report = sample_report()
    twin = dataclasses.replace(row_of(report, "tensorrt-fp16"), name="tensorrt-int8")
    report = dataclasses.replace(report, rows=(*report.rows, twin))
    said = "tensorrt-fp16, tensorrt-int8: not run: no CUDA driver; expected an NVIDIA GPU"
    for text in (printed(report, 160), markdown(report)):
        assert text.count(said) == text.count("tensorrt-") / 2 == 1


def test_files_of_a_run(tmp_path: Path) -> None:
    report = sample_report()
    written = write_report(report, tmp_path / "new" / "bench")
    assert [path.name for path in written] == ["bench.json", "bench.csv", "bench.md", "bench.html"]
    assert read_record(written[0]) == report
    assert written[1].read_text(encoding="utf-8") == csv_text(report)
    assert written[2].read_text(encoding="utf-8") == markdown(report)
    assert sorted(written[0].parent.iterdir()) == sorted(written)
