"""The study of exports prints what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.study_runs import run_study


@pytest.mark.slow
def test_the_table_is_that_of_the_record(tmp_path: Path) -> None:
    words = ["--size", "32x64", "--rounds", "2", "--round-seconds", "0.05", "--threads", "1"]
    words += ["--no-compiled", "--profile", "--json", "speed.json"]
    done = run_study("export_speed", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "speed.json").read_text())
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if "|" in line]
    table = {cells[0]: cells[1:] for cells in lines}
    assert list(record["rows"])[:2] == ["pytorch eager", "plain export"]
    assert "ort-cpu" in record["rows"]
    for name, row in record["rows"].items():
        assert row["agreement"] >= 0.9999
        assert float(table[name][0]) == pytest.approx(100 * row["agreement"], abs=1e-4)
        p50 = np.percentile(np.concatenate(row["rounds_ns"]), 50) / 1e6
        assert float(table[name][1]) == pytest.approx(p50, abs=0.06)
    # OpenVINO is a row with its times, or with the extra that brings it.
    assert "openvino" in record["rows"] or "'.[openvino]'" in table["openvino"][0]
    for column, kinds in enumerate(record["milliseconds_by_kind"].values()):
        assert float(table["all"][column]) == pytest.approx(sum(kinds.values()), abs=0.06)
