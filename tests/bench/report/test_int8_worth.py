"""INT8 that buys no time is named in the notes of a report."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from bench.record import Row, Setting, Timing, Turn
from bench.record.timing import latency
from bench.report.notes import int8_worth
from tests.support.sample_reports import SETTING, sample_report


def row(
    name: str,
    milliseconds: float,
    setting: Setting = SETTING,
    scope: str = "host",
    rounds: int = 10,
    seed: int = 0,
) -> Row:
    random = np.random.default_rng(seed)
    samples = (1e6 * milliseconds * random.normal(1, 0.01, (rounds, 20))).astype(np.int64).tolist()
    turns = tuple(Turn(n, n, sum(turn) / 1e9, tuple(turn)) for n, turn in enumerate(samples))
    return Row(name, setting, timings=(Timing(scope, latency(turns), turns=turns),))


def said(*rows: Row) -> list[str]:
    return int8_worth(dataclasses.replace(sample_report(), rows=rows))


def test_int8_that_is_faster_needs_no_word() -> None:
    assert said(row("tensorrt-fp32", 9), row("tensorrt-fp16", 5), row("tensorrt-int8", 4)) == []


def test_it_must_beat_the_fastest_float_of_its_own_backend() -> None:
    rows = (row("pytorch-fp32", 90), row("tensorrt-fp32", 9), row("tensorrt-fp16", 4))
    (line,) = said(*rows, row("tensorrt-int8", 5))
    assert line.startswith("tensorrt-int8 is slower than tensorrt-fp16 here (0.80× [")
    assert line.endswith("ship tensorrt-fp16.")
    (line,) = said(*rows, row("tensorrt-int8", 4))
    assert line.startswith("tensorrt-int8 is as fast as tensorrt-fp16 here within 3 % (1.0")
    assert line.endswith("its speed): INT8 saves no time.")
    (line,) = said(*rows, row("tensorrt-int8", 3.95, rounds=2, seed=2))
    assert line.startswith("tensorrt-int8 and tensorrt-fp16 are not told apart here (1.0")
    assert re.search(r"measure more, about \d+ rounds instead of 2\.$", line)
    (line,) = said(row("onnxruntime-fp32", 10), row("onnxruntime-int8", 20), *rows)
    assert "onnxruntime-int8 is slower than onnxruntime-fp32 here (0.50" in line


def test_rows_that_did_not_run_are_passed_over() -> None:
    missing = Row("tensorrt-fp16", SETTING, reason="no GPU")
    assert said(missing, Row("tensorrt-int8", SETTING, reason="no GPU")) == []
    (line,) = said(missing, row("tensorrt-fp32", 4), row("tensorrt-int8", 5))
    assert "than tensorrt-fp32" in line
    assert said(row("tensorrt-int8", 5)) == []
    # Without a second round nothing can be said.
    assert said(row("tensorrt-fp32", 4), row("tensorrt-int8", 5, rounds=1)) == []


def test_each_setting_is_judged_alone_and_in_one_scope() -> None:
    large = Setting((512, 1024), batch=8)
    rows = (row("a-fp32", 9), row("a-int8", 5), row("a-fp32", 30, large), row("a-int8", 40, large))
    (line,) = said(*rows)
    assert line.startswith("a-int8 is slower than a-fp32 at 512x1024, batch 8 (0.75× [")
    (line,) = said(row("a-fp32", 4, scope="device"), row("a-int8", 5, scope="device"))
    assert "(0.80× [" in line
    assert said(row("a-fp32", 4, scope="device"), row("a-int8", 5)) == []
