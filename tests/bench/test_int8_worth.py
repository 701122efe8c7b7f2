"""What a report says of INT8 that buys no time."""

from __future__ import annotations

import numpy as np

from bench.int8_worth import int8_worth
from bench.record import Report, Row
from bench.statistics import latency


def row(name: str, milliseconds: float) -> Row:
    random = np.random.default_rng(len(name))
    turns = (1e6 * milliseconds * random.normal(1, 0.01, (10, 20))).astype(np.int64)
    timed = latency(turns.reshape(-1), 1)
    return Row(name, "host", latency=timed, rounds_ns=tuple(map(tuple, turns.tolist())))


def said(*rows: Row) -> list[str]:
    return int8_worth(Report("m", "m.pth", "0", "d", "val", 1, (), (8, 8), {}, {}, rows))


def test_int8_that_is_faster_needs_no_word() -> None:
    assert said(row("tensorrt-fp32", 9), row("tensorrt-fp16", 5), row("tensorrt-int8", 4)) == []


def test_it_must_beat_the_fastest_float_of_its_own_backend() -> None:
    rows = (row("pytorch-fp32", 90), row("tensorrt-fp32", 9), row("tensorrt-fp16", 4))
    (line,) = said(*rows, row("tensorrt-int8", 5))
    assert line.startswith("tensorrt-int8 is not faster than tensorrt-fp16 here (0.80 [")
    assert line.endswith("ship tensorrt-fp16.")
    (line,) = said(*rows, row("tensorrt-int8", 4))  # indistinguishable: the accurate one
    assert "not faster than tensorrt-fp16 here (1.0" in line
    (line,) = said(row("onnxruntime-fp32", 10), row("onnxruntime-int8", 20), *rows)
    assert "onnxruntime-int8 is not faster than onnxruntime-fp32 here (0.50" in line


def test_rows_that_did_not_run_are_passed_over() -> None:
    missing = Row("tensorrt-fp16", "host", reason="no GPU")
    assert said(missing, Row("tensorrt-int8", "host", reason="no GPU")) == []
    (line,) = said(missing, row("tensorrt-fp32", 4), row("tensorrt-int8", 5))
    assert "than tensorrt-fp32" in line
    assert said(row("tensorrt-int8", 5)) == []
