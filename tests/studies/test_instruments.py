"""The study of the instruments prints what it measured; that it is good is not asserted."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.study_runs import run_study


@pytest.mark.slow
def test_every_comparison_has_its_line(tmp_path: Path) -> None:
    words = ["--size", "32x64", "--rounds", "2", "--min-time", "0.05", "--pairs", "1"]
    done = run_study("instruments", *words, "--json", "found.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "found.json").read_text())
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if "|" in line]
    table = dict(cells for cells in lines if len(cells) == 2)
    names = [name for name in kept if " to " in name]
    assert len(names) == 3
    for name in names:
        value, low, high = kept[name]
        assert 0 < low <= value <= high
        assert table[name].startswith(f"{value:.4f} [{low:.4f}, {high:.4f}] ")
    assert f"{kept['null_ns']:.0f} ns" in done.stdout
    assert "--engine" in table["TensorRT: harness to trtexec"]
    assert re.search(r"equal in [01] and not told apart in [01] of 1 \(", done.stdout)
    assert re.search(r"2 % more work in one of them: found in [01] of 1\n", done.stdout)
    assert len(kept["equal"]) == len(kept["slower"]) == 1


@pytest.mark.parametrize("made", [False, True])
def test_an_engine_or_a_program_that_is_not_there_is_said_at_once(
    tmp_path: Path, made: bool
) -> None:
    if made:
        (tmp_path / "model.engine").write_bytes(b"plan")
    words = ["--engine", "model.engine", "--trtexec", "no-such-program"]
    done = run_study("instruments", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert ("no program 'no-such-program'" if made else "no file at 'model.engine'") in done.stderr
