"""The benchmark of calibrations runs, and what it prints is what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.study_runs import ROOT, run_benchmark


def test_the_table_is_that_of_the_record(tmp_path: Path) -> None:
    words = ["--size", "64x128", "--images", "3,1", "--json", "speed.json"]
    done = run_benchmark("calibration_speed", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if "|" in line][2:]
    assert [row["images"] for row in rows] == [3] * 7 + [1] * 7
    assert len(lines) == len(rows)
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
    assert "dabnet_toy_street.pth, 64x128, 184 tensors, 3 images of toy-street train" in done.stdout


def test_a_row_over_the_limit_is_stopped(tmp_path: Path) -> None:
    row = "onnxruntime MinMax, together"
    words = ["--size", "64x128", "--images", "1", "--row", row, "--memory-limit-gb", "0.02"]
    done = run_benchmark("calibration_speed", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"| {row} | 1 | stopped: over 0.02 GB |  |  |  |  |  |" in done.stdout.splitlines()


def test_a_row_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    from calibration_speed import run_row

    broken = tmp_path / "graph.onnx"
    broken.write_bytes(b"not a graph")
    found = run_row("ours", 1, broken, tmp_path / "images.bin", 1e12)
    assert found.measured is None
    assert found.reason.startswith("failed (1): ")
    assert "Error" in found.reason


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    done = run_benchmark("calibration_speed", "--images", "8,0", cwd=tmp_path)
    assert done.returncode == 2
    assert "'8,0' is not a list of numbers above 0, such as 8,32" in done.stderr
    assert done.stderr.count("\n") == 1
