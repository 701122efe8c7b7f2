"""The study of calibrations prints what it measured."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from tests.support.contract_graph import HEIGHT, WIDTH, write_contract
from tests.support.study_runs import ROOT, run_study

# Each calibrator and both ways to feed it; a process and seconds for every row that is left out.
ROWS = ("MinMax, together", "Percentile, one by one", "Entropy, together")


@pytest.mark.slow
def test_the_table_is_that_of_the_record(tmp_path: Path) -> None:
    names = ["ours"] + [f"onnxruntime {row}" for row in ROWS]
    words = ["--size", "64x128", "--images", "2,1", "--json", "speed.json"]
    words += [word for name in names for word in ("--row", name)]
    done = run_study("calibration_speed", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if "|" in line][2:]
    assert [(row["images"], row["name"]) for row in rows] == [*product((2, 1), names)]
    for row, line in zip(rows, lines, strict=True):
        ours = next(r for r in rows if r["name"] == "ours" and r["images"] == row["images"])
        measured, reference = row["measured"], ours["measured"]["collect_seconds"]
        assert line[:2] == [row["name"], str(row["images"])]
        assert float(line[2]) == pytest.approx(measured["collect_seconds"], abs=0.051)
        assert float(line[6]) == pytest.approx(measured["peak_bytes"] / 1e9, abs=0.0051)
        cpu = measured["cpu_seconds"] / row["images"]
        assert float(line[4]) == pytest.approx(cpu, abs=0.0051)
        assert measured["peak_bytes"] > 50e6  # libraries alone
        ratio = measured["collect_seconds"] / reference
        assert float(line[7]) == pytest.approx(ratio, abs=0.0051)
        assert len(measured["tensors"]) > 170
    tensors = len(rows[0]["measured"]["tensors"])
    facts = f"64x128, {tensors} tensors, 2 images of toy-street train"
    assert f"dabnet_toy_street.pth, {facts}" in done.stdout


def test_a_row_over_the_limit_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that would take minutes, of a small graph."""
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    from calibration_speed import run_row, table

    graph, images = write_contract(tmp_path), tmp_path / "images"
    images.mkdir()
    np.save(images / "0.npy", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    row = run_row("onnxruntime MinMax, one by one", 10**6, graph, images, 2e7)
    assert row.reason == "stopped: over 0.02 GB"
    cells = f"| {row.name} | 1000000 | {row.reason} |  |  |  |  |  |"
    assert table([row]).splitlines()[2] == cells


def test_a_row_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    from calibration_speed import run_row

    broken = tmp_path / "graph.onnx"
    broken.write_bytes(b"not a graph")
    found = run_row("ours", 1, broken, tmp_path, 1e12)
    assert found.measured is None
    assert found.reason.startswith("failed: DecodeError: ")


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    done = run_study("calibration_speed", "--images", "8,0", cwd=tmp_path)
    assert done.returncode == 2
    assert "'8,0' is not a list of numbers above 0, such as 8,32" in done.stderr
    assert done.stderr.count("\n") == 1
