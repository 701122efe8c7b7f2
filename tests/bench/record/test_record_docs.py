"""The page of the record: it names every field, and its example runs."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import record
from bench.record.file import write_record
from dabnet.intervals import Interval
from dabnet.runtime.runner import LayerTime, RunnerInfo
from tests.support import ROOT
from tests.support.sample_reports import ROWS, sample_report

PAGE = ROOT / "docs/bench_record.md"
TYPES = [
    *(
        kind
        for kind in vars(record).values()
        if isinstance(kind, type)
        and dataclasses.is_dataclass(kind)
        and kind.__module__.startswith("bench.")
    ),
    *(Interval, LayerTime, RunnerInfo),
]


@pytest.mark.parametrize("kind", dict.fromkeys(TYPES), ids=lambda kind: kind.__name__)
def test_every_field_is_documented(kind: Any) -> None:
    text = PAGE.read_text(encoding="utf-8")
    # An interval's keys stand together, in the notation of JSON.
    named = set(re.findall(r"[`\"](\w+)[`\"]", text))
    assert {field.name for field in dataclasses.fields(kind)} <= named


def test_the_format_is_the_one_of_the_page() -> None:
    assert f"`format` is **{record.FORMAT}**" in PAGE.read_text(encoding="utf-8")


def test_the_example_runs_on_a_record(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    report = sample_report()
    write_record(report, tmp_path / "bench.json")
    result = subprocess.run(
        [sys.executable, "-I", "-c", example],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) == 2 * sum(figures is not None for figures in ROWS.values()) + 1
    host = report.rows[0].timings[0].latency
    assert host is not None
    assert lines[0] == f"pytorch-fp32 host: {host.p50_ms:.2f} ms, 0.0 % slow calls"
    assert lines[-1] == "tensorrt-fp16: no CUDA driver; expected an NVIDIA GPU"
