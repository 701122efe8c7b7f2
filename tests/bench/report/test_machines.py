"""Records of several machines in one table and page: each with its own reference, none mixed up."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from bench.record import REFERENCE, Report, Setting
from bench.report.columns import COST, SPEED, table
from bench.report.machines import (
    Record,
    groups,
    machine_of,
    machines_csv,
    machines_markdown,
    named,
    notes_of,
    print_machines,
    title_of,
)
from bench.report.page.page import machines_page
from dabnet.errors import InputError
from tests.support.html_reading import Page
from tests.support.sample_reports import ROWS, SETTING, sample_report, several_report

XEON = {"processor": "Intel(R) Xeon(R) Processor (2 logical cores)", "gpu": "none"}
CARD = {"processor": "x (64 logical cores)", "gpu": "RTX 3090 (compute capability 8.6), driver 1"}
XEON_NAME, CARD_NAME = "Intel Xeon Processor (2 logical cores), 2 threads", "RTX 3090"
ON_CARD = {"name": "latency", "cpu_threads": 8, "device": "cuda:0"}
FEW = {REFERENCE: (10.0, 0.66, 3.1), "tensorrt-fp16": (2.0, 0.65, 1.0)}


def records(*reports: Report) -> list[Record]:
    return named([(Path(f"{n}/bench.json"), report) for n, report in enumerate(reports)])


def of_two(**changes: object) -> list[Record]:
    first = sample_report(environment=XEON)
    return records(first, sample_report(FEW, seed=1, environment=CARD, scenario=ON_CARD, **changes))


def test_one_table_has_the_rows_of_each_machine_as_its_own_record_has_them() -> None:
    found = of_two()
    (group,) = groups(found)
    assert group.title == "512x1024, batch 1, latency, toy-street val"
    for names in (SPEED, COST):
        joint = group.table(names)
        own = [table(record.report, SETTING, names) for record in found]
        assert joint.headings == own[0].headings
        assert joint.lines == own[0].lines + own[1].lines
    ran = sum(figures is not None for figures in ROWS.values())
    assert group.table(SPEED).groups == (*[XEON_NAME] * ran, *[CARD_NAME] * 2)
    # A ratio is to the PyTorch of the same machine, which is the reference twice.
    place = joint_place(group.table(SPEED).headings, "speed to PyTorch")
    words = [line[place] for line in group.table(SPEED).lines]
    assert [n for n, word in enumerate(words) if word == "reference"] == [0, ran]
    assert 4.5 < float(words[ran + 1].split("×")[0]) < 5.5


def joint_place(headings: tuple[str, ...], start: str) -> int:
    return next(n for n, heading in enumerate(headings) if heading.startswith(start))


def test_every_form_tells_each_machine_once_and_every_figure() -> None:
    found = of_two()
    (group,) = groups(found)
    text = machines_markdown(found)
    assert text.startswith("# dabnet on 2 machines\n")
    lines = [line.split(" | ") for line in text.partition("- ")[0].splitlines() if "×" in line]
    assert [line[0].strip("| ") for line in lines] == ["", "", "", ""]  # the first is a reference
    assert text.count(f"| {XEON_NAME} |") == text.count(f"| {CARD_NAME} |") == 2  # speed and cost
    page = Page(machines_page(found))
    speed = page.tables[0]
    assert [row for row in speed if len(row) == 1] == [[XEON_NAME], [CARD_NAME]]
    cells = [row for row in speed[1:] if len(row) > 1]
    assert [row[0].split()[0] for row in cells] == [line[0] for line in group.table(SPEED).lines]
    assert [row[3] for row in cells] == [line[3] for line in group.table(SPEED).lines]
    out = io.StringIO()
    print_machines(found, Console(file=out, width=190))
    printed = out.getvalue()
    assert "RTX 3090" in printed and "Intel Xeon Processor (2" in printed
    figures = [cell for line in group.table(SPEED).lines for cell in line]
    assert all(part in printed for cell in figures for part in cell.split())
    assert f"{XEON_NAME}: tensorrt-fp16: not run: no CUDA driver" in printed


def test_the_csv_names_machine_date_and_data_of_each_line() -> None:
    found = of_two(started="2026-02-01T00:00:00+00:00", dataset="camvid")
    lines = list(csv.DictReader(io.StringIO(machines_csv(found))))
    assert [line["machine"] for line in lines] == [XEON_NAME] * 9 + [CARD_NAME] * 4
    last = lines[-1]
    assert (last["name"], last["scope"], last["started"], last["dataset"], last["split"]) == (
        *("tensorrt-fp16", "device", "2026-02-01T00:00:00+00:00", "camvid", "val"),
    )
    timing = found[1].report.rows[1].timing("device")
    assert timing and timing.speed_ratio
    assert float(last["speed_ratio"]) == timing.speed_ratio.value


def test_what_cannot_be_compared_stands_in_tables_of_its_own() -> None:
    small, several = Setting((360, 480)), Setting((512, 1024), streams=2)
    found = records(
        sample_report(environment=XEON, settings=(SETTING, small)),
        sample_report(environment=CARD, settings=(small, several), seed=1),
        sample_report(environment=CARD, dataset="camvid", started="2026-03-01", seed=2),
        sample_report(scenario={"name": "throughput"}, seed=3),
    )
    tables = {group.title: [r.machine for r, _ in group.parts] for group in groups(found)}
    names = [record.machine for record in found]
    assert tables == {
        "512x1024, batch 1, latency, toy-street val": names[:1],
        "360x480, batch 1, latency, toy-street val": names[:2],
        "512x1024, batch 1, 2 streams, latency, toy-street val": names[1:2],
        "512x1024, batch 1, latency, camvid val": names[2:3],
        "512x1024, batch 1, throughput, toy-street val": names[3:],
    }


def test_records_of_one_machine_are_told_apart_by_date_then_file_then_number() -> None:
    day, noon = {"environment": XEON}, "2026-01-31T12:00:00Z"
    reports = [
        sample_report(**day, started="2026-01-30T08:15:00Z"),
        *(sample_report(**day, started=noon, seed=seed) for seed in (1, 2, 3)),
        sample_report(environment=CARD, scenario=ON_CARD),
    ]
    files = map(Path, ("a.json", "x/b.json", "x/c.json", "y/c.json", "d.json"))
    found = named(list(zip(files, reports, strict=True)))
    assert [record.machine.removeprefix(XEON_NAME) for record in found] == [
        *(", 2026-01-30 08:15", ", 2026-01-31 12:00, b.json"),
        *(", 2026-01-31 12:00, c.json, 3", ", 2026-01-31 12:00, c.json, 4", CARD_NAME),
    ]
    assert title_of(found) == "dabnet on 2 machines, 5 records"
    assert machine_of(sample_report(environment={}, scenario={})) == "unknown processor, ? threads"


def test_a_record_twice_is_refused() -> None:
    with pytest.raises(InputError, match=r"'0/bench.json' and '2/bench.json' are the same record"):
        records(sample_report(), sample_report(seed=1), sample_report())


def test_notes_that_hold_of_all_are_told_once_and_others_with_their_machine() -> None:
    lines = notes_of(of_two())
    assert sum(line.startswith("Scope host: ") for line in lines) == 1
    assert not any("Scope host" in line and line.startswith(XEON_NAME) for line in lines)
    assert any(line.startswith(f"{CARD_NAME}: Machine: processor x (64") for line in lines)
    assert not any("is not one file" in line for line in lines)
    other = replace(sample_report().subjects[0], sha256="f" * 64)
    lines = notes_of(of_two(subjects=(other,)))
    assert lines[1] == (
        "dabnet is not one file (dabnet_toy_street.pth (0123456789ab), dabnet_toy_street.pth"
        " (ffffffffffff)): compare its speed, not its mIoU."
    )
    page = Page(machines_page(of_two(complete=False)))
    assert f"⚠ {CARD_NAME}: INCOMPLETE: the run was stopped" in page.text


def test_models_have_a_column_where_any_record_has_several() -> None:
    found = records(sample_report(environment=XEON), several_report())
    (group,) = groups(found)
    grid = group.table(SPEED)
    assert grid.headings[:2] == ("model", "artifact")
    assert {line[0] for line in grid.lines} == {"dabnet", "lednet", "enet (untrained)", "mine"}
    assert title_of(found) == "dabnet, lednet, enet, mine on 2 machines"
    speed = Page(machines_page(found)).tables[0]
    assert {len(row) for row in speed} == {1, len(grid.headings) - 1}


def test_text_of_a_record_cannot_become_markup() -> None:
    evil = "</style><script>alert(1)</script>|<b onload=x>"
    hurt = sample_report(environment={"processor": evil}, dataset=evil, seed=1)
    found = records(sample_report(), hurt)
    page = Page(machines_page(found))
    assert {name for name, _ in page.tags} <= {
        name for name, _ in Page(machines_page(of_two())).tags
    }
    assert page.text.count(evil) > 5
    assert "<script>" not in machines_markdown(found).replace("\\<script>", "")
