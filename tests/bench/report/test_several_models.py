"""A record of several networks and a file: one table, one front, one recommendation."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from rich.console import Console

from bench.judgement.compare import NEW, Limits, compare
from bench.judgement.recommend import Bounds, recommend
from bench.record.file import read_record, write_record
from bench.report.columns import SPEED, table
from bench.report.notes import notes
from bench.report.page.charts import front, looks, points, scatter
from bench.report.page.page import cards, html_page
from bench.report.text import accuracy_grids, csv_text, markdown, print_report
from tests.support.html_reading import Page
from tests.support.sample_reports import SETTING, SUBJECT, sample_report, several_report

REPORT = several_report()
FASTEST = "dabnet/onnxruntime-fp32"  # of those that were trained
FILE = "mine/onnxruntime-file"


def cells(name: str) -> dict[str, str]:
    """Heading → text of a line of the main table, by the name of its row."""
    grid = table(REPORT, SETTING, SPEED)
    number = [line.row.name for line in grid.rows].index(name)
    return dict(zip(grid.headings, grid.lines[number], strict=True))


def test_a_line_names_its_model_and_what_it_costs() -> None:
    first, enet, mine = map(
        cells, ("lednet/pytorch-fp32", "enet/pytorch-fp32", REPORT.rows[-1].name)
    )
    assert [*islice(first.items(), 4)] == [
        *(("model", "lednet"), ("artifact", "pytorch-fp32"), ("params M", "1.10")),
        ("MACs G", "11.00"),
    ]
    assert enet["model"] == "enet (untrained)" and enet["mIoU %"] == "–"
    assert (mine["model"], mine["artifact"], mine["mIoU %"]) == (
        "mine",
        "onnxruntime-file",
        "69.00",
    )
    # One row is the reference of speed; of accuracy each network has its own.
    assert cells("dabnet/pytorch-fp32")["speed to PyTorch [95 %]"] == "reference"
    assert first["speed to PyTorch [95 %]"].endswith("slower")
    assert first["Δ to FP32 points [95 %]"] == "reference"
    assert mine["Δ to FP32 points [95 %]"] == "–"
    said = " ".join(notes(REPORT))
    assert "Speed ratios are to dabnet/pytorch-fp32;" in said and "random weights" in said
    alone = table(sample_report(), SETTING, SPEED).headings
    assert "model" not in alone and "params M" not in alone


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_every_name_and_figure(width: int) -> None:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    print_report(REPORT, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    title = next(n for n, line in enumerate(lines) if line.startswith("cost: "))
    drawn = lines[:title]
    assert max(map(len, drawn)) <= width
    words = set(" ".join(drawn).split())
    assert {"lednet", "onnxruntime-file", "11.00", "69.00", "reference", "slower"} <= words


def test_every_form_tells_the_models_apart() -> None:
    lines = [*csv.DictReader(io.StringIO(csv_text(REPORT)))]
    assert {(line["name"], line["model"], line["untrained"]) for line in lines} >= {
        ("lednet/openvino-fp32", "lednet", "False"),
        ("enet/openvino-fp32", "enet", "True"),
    }
    assert {line["parameters"] for line in lines if line["model"] == "mine"} == {"5500000"}
    grids = accuracy_grids(REPORT)[SETTING]
    assert [grid.of for grid in grids] == ["dabnet", "lednet", "mine"]
    assert "## accuracy of lednet at 512x1024, %" in markdown(REPORT)
    page = Page(html_page(REPORT))
    assert "dabnet, lednet, enet and mine on toy-street val" in page.text
    assert "lednet/\u200bonnxruntime-int8" in page.text
    assert [line[0] for line in page.tables[0][:1]] == ["model, artifact"]


def test_the_front_and_the_cards_are_of_what_was_trained() -> None:
    drawn = points(REPORT, "host", SETTING)
    assert not any("enet/" in point.name for point in drawn)
    best = [point.name for point in front(drawn)]
    assert best[-1] == FASTEST and best[0] == FILE
    look = looks(REPORT)
    colours = {name.partition("/")[0]: look[name].colour for name in look}
    assert len(set(colours.values())) == len(colours) == 4
    assert FILE in scatter(REPORT, "host", SETTING)
    named = {title: name for title, name, *_ in cards(REPORT, SETTING)}
    assert named["Fastest, scope host"] == FASTEST
    assert named["Highest mIoU"] == FILE


def test_random_weights_are_not_recommended() -> None:
    chosen, lines = recommend(REPORT, SETTING, Bounds())
    assert chosen and chosen.name == FASTEST
    assert "  not considered: enet/onnxruntime-fp32: its weights are random" in lines
    chosen, _ = recommend(REPORT, SETTING, Bounds(min_miou=0.68))
    assert chosen and chosen.name.partition("/")[0] in ("lednet", "mine")


def test_a_record_of_one_model_is_compared_with_its_rows_among_others(tmp_path: Path) -> None:
    write_record(REPORT, tmp_path / "bench.json")
    assert read_record(tmp_path / "bench.json") == REPORT
    alone = sample_report(subjects=(replace(SUBJECT, label="dabnet"),))
    found = compare(alone, REPORT, Limits())
    assert not found.count("regression")
    speeds = [f for f in found.findings if f.what == "host speed"]
    assert {f.name for f in speeds} == {r.name for r in alone.rows if not r.reason}
    assert {f.name.partition("/")[0] for f in found.findings if f.outcome == NEW} == {
        *("lednet", "enet", "mine")
    }
