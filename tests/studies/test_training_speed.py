"""The study of training prints what it measured."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from tests.support.study_runs import run_study


@pytest.mark.slow
def test_the_table_is_that_of_the_record(tmp_path: Path) -> None:
    words = ["--input-size", "32x32", "--batch-size", 2, "--rounds", 2, "--steps", 2]
    done = run_study(
        "training_speed",
        *words,
        "--num-workers",
        1,
        "--json",
        tmp_path / "speed.json",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "speed.json").read_text())
    assert record["recipe"]["input_size"] == [32, 32]
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in rows] == ["| plain", "| workers", "| device", "| no data"]
    for row, (_, turns) in zip(rows, record["turns"].items(), strict=True):
        assert len(turns) == 2
        rates = [turn["images"] / turn["seconds"] for turn in turns]
        assert row[1].startswith(f"{statistics.median(rates):.2f} [{min(rates):.2f},")
        waits = sum(t["waited"] for t in turns) / sum(t["seconds"] for t in turns)
        assert row[2] == f"{100 * waits:.1f} %"
        assert all(0 <= turn["waited"] < turn["seconds"] for turn in turns)
    assert "drawn scenes, crops of 32x32, batch 2, amp off, 1 workers" in done.stdout


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    done = run_study("training_speed", "--dataset", "cityscapes", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no --data-dir for cityscapes; expected its folder")
    assert done.stderr.count("\n") == 1
