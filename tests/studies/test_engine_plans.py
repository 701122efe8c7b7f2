"""The study of plans prints what it built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.study_runs import run_study

pytest.importorskip("tensorrt_rtx")


@pytest.mark.slow
def test_the_table_is_that_of_the_record(tmp_path: Path) -> None:
    words = ["--size", "64x128", "--targets", "sm86", "--json", "plans.json"]
    done = run_study("engine_plans", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plans = json.loads((tmp_path / "plans.json").read_text(encoding="utf-8"))["plans"]
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if "|" in line]
    rows = {(cells[0], cells[1]): cells[2:] for cells in lines[2:]}
    assert len(rows) == len(plans) == 9
    for plan in plans:
        target, kernels, moved, *_ = rows[plan["graph"], plan["precision"]]
        assert (target, int(kernels)) == (plan["target"], plan["kernels"])
        assert float(moved) == pytest.approx(plan["activation_bytes"] / 1e6, abs=0.06)
        assert any("PReLU" in fault for fault in plan["faults"]) == (plan["graph"] == "portable")


@pytest.mark.slow
def test_masks_are_compared_with_fp32(tmp_path: Path) -> None:
    words = ["--masks", "--size", "64x128", "--images", "2", "--calibration-images", "2"]
    done = run_study("engine_plans", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if "|" in line]
    shares = {cells[0]: float(cells[3]) for cells in lines[2:]}
    assert shares["portable fp32"] == 100 and shares["tensorrt-rtx fp32"] >= 99.99
    assert shares["tensorrt-rtx fp16"] >= 99 and shares["tensorrt-rtx int8"] >= 90
