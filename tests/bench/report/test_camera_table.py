"""The table of frames that arrive, and what the notes say of it and of a target width."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bench.judgement.compare import NOT_JUDGED, Limits, compare
from bench.record import Frames, Report, Telemetry, Timing, Turn
from bench.record.file import read_record, write_record
from bench.report.columns import CAMERA, table
from bench.report.machines import groups, machines_markdown, named
from bench.report.notes import notes
from bench.report.page.page import html_page, machines_page
from bench.report.text import csv_text, markdown
from tests.support.sample_reports import SETTING, sample_report

MS = 1_000_000


def window(number: int, fps: float, samples_ms: Sequence[float], dropped: int = 0) -> Turn:
    samples = tuple(round(ms * MS) for ms in samples_ms)
    telemetry = Telemetry(cpu_energy_j=0.3 * len(samples))
    return Turn(number, 0.0, 1.0, samples, telemetry, frames=Frames(fps, 1, dropped))


def camera_report(fps: float = 20.0, told: bool = True) -> Report:
    """The first row misses 10 % of 800 frames, and keeps up with 10 FPS and not with 10.1."""
    report = sample_report()
    samples = [*[20.0] * 36, 51.0, 52.0]
    asked = [window(number, fps, samples, dropped=2) for number in range(20)]
    if not told:
        asked = [replace(turn, telemetry=Telemetry()) for turn in asked]
    late = [20.0] * 8 + [200.0] * 2
    searched = [(10.0, [20.0] * 10), (15.0, late), (12.25, late), (11.0, late), (10.1, late)]
    search = [window(n, *each) for n, each in enumerate([*searched, *searched])]
    timings = tuple(Timing.of(s, t, 1, asked) for s, t in (("camera", asked), ("search", search)))
    first, *others = report.rows
    scenario = {**report.scenario, "name": "camera", "fps": fps, "cameras": 1}
    first = replace(first, timings=first.timings + timings)
    return replace(report, rows=(first, *others), scenario=scenario)


def test_the_table_has_a_line_for_each_row_that_was_fed() -> None:
    grid = table(camera_report(), SETTING, CAMERA)
    (line,) = grid.lines
    cells = dict(zip(grid.headings, line, strict=True))
    assert cells.pop("missed % [95 %]").startswith("10.00 [")
    assert cells.pop("dropped % [95 %]").startswith("5.00 [")
    assert cells.pop("p50 ms [95 %]") == "20.00 [20.00, 20.00]"
    assert cells.pop("p99 ms [95 %]") == "52.00 [52.00, 52.00]"
    assert cells == {
        "artifact": "pytorch-fp32",
        "p99.9 ms [95 %]": "too few frames",
        # From the rate that was kept to the one that was not.
        "keeps FPS [95 %]": "10.0 [10.0, 10.1]",
        "CPU mJ/mask [95 %]": "300.00 [300.00, 300.00]",
    }


def test_the_csv_has_numbers_alone() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(camera_report()))))
    mine = {row["scope"]: row for row in rows if row["name"] == "pytorch-fp32"}
    assert set(mine) == {"host", "device", "camera"}  # a search has turns alone
    row = mine["camera"]
    assert (float(row["missed"]), float(row["dropped"])) == (0.1, 0.05)
    assert 0 < float(row["missed_low"]) < 0.1 < float(row["missed_high"]) < 0.2
    assert (float(row["arrival_p99_s"]), row["arrival_p99.9_s"]) == (0.052, "")
    assert (float(row["kept_fps"]), float(row["kept_fps_high"])) == pytest.approx((10.0, 10.1))
    assert float(row["cpu_energy_per_mask_j"]) == pytest.approx(0.3)
    assert row["gpu_energy_per_mask_j"] == row["speed_ratio"] == ""


@pytest.mark.parametrize("told", [True, False])
def test_the_notes_say_how_frames_arrived_and_what_the_machine_does_not_tell(told: bool) -> None:
    found = notes(camera_report(told=told))
    text = "\n".join(found)
    assert "1 camera of 20 FPS; a mask is due 50.00 ms after the arrival of its frame" in text
    (energy,) = [line for line in found if line.startswith("Energy per mask")]
    assert ("RAPL" in energy, "not available on this machine" in energy) == (told, not told)


def test_every_report_has_the_table_and_a_record_without_it_none(tmp_path: Path) -> None:
    report = camera_report()
    write_record(report, tmp_path / "bench.json")
    assert read_record(tmp_path / "bench.json") == report
    for text in (markdown(report), html_page(report)):
        assert "camera: 512x1024, batch 1" in text and "too few frames" in text
    for text in (markdown(sample_report()), html_page(sample_report())):
        assert "camera" not in text and "too few" not in text


def test_a_record_of_before_has_no_frames(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    write_record(sample_report(), path)
    text = path.read_text(encoding="utf-8")
    before = text.replace(', "frames": null', "").replace('"cpu_energy_j": null, ', "")
    assert before != text and "frames" not in before and "cpu_energy" not in before
    path.write_text(before, encoding="utf-8")
    assert read_record(path) == sample_report()


def test_frames_at_another_rate_are_not_compared() -> None:
    found = compare(camera_report(20.0), camera_report(25.0), Limits()).findings
    (camera,) = [finding for finding in found if finding.what == "camera speed"]
    assert (camera.outcome, camera.note) == (NOT_JUDGED, "frames arrived at another rate")
    found = compare(camera_report(), camera_report(), Limits()).findings
    (camera,) = [finding for finding in found if finding.what == "camera speed"]
    assert camera.change is not None and camera.change.value == 1


@pytest.mark.parametrize(("target", "reached"), [(0.5, True), (0.001, False)])
def test_the_notes_say_whether_the_target_width_was_reached(target: float, reached: bool) -> None:
    report = sample_report()
    scenario = {**report.scenario, "target_width": target, "max_minutes": 60.0}
    (line,) = [n for n in notes(replace(report, scenario=scenario)) if n.startswith("Target")]
    assert line.endswith("reached.") is reached
    assert (
        "NOT REACHED in 4 rounds, at most 60.0 minutes: onnxruntime-fp32 (host, " in line
    ) is not reached
    assert not any(n.startswith("Target") for n in notes(report))


def test_records_of_other_rates_stand_in_tables_of_their_own() -> None:
    reports = [camera_report(), camera_report(fps=10.0), sample_report()]
    found = named([(Path(f"{n}.json"), report) for n, report in enumerate(reports)])
    titles = [group.title.split(", ")[2] for group in groups(found)]
    assert titles == ["camera 1 × 20.0 FPS", "camera 1 × 10.0 FPS", "latency"]
    assert "| 10.00 [" in machines_markdown(found)  # missed, %
    assert "too few frames" in machines_page(found)


def test_alerts_of_all_records_stand_at_the_top_of_their_page() -> None:
    reports = [replace(camera_report(fps), complete=False) for fps in (10.0, 20.0)]
    page = machines_page(named([(Path(f"{n}.json"), each) for n, each in enumerate(reports)]))
    assert '<p class="alert" role="note">⚠ INCOMPLETE' in page


@pytest.mark.parametrize("ran", [True, False])
def test_a_target_width_needs_a_row_to_compare(ran: bool) -> None:
    report = sample_report()
    rows = report.rows if ran else report.rows[:1]
    asked = {**report.scenario, "target_width": 1e-6, "max_minutes": 60.0}
    (told,) = [n for n in notes(replace(report, rows=rows, scenario=asked)) if "Target" in n]
    assert ("NOT REACHED in " if ran else "no row to compare.") in told
