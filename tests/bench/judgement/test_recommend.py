"""What to ship: the fastest that fits, and never a row that cannot be trusted."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from bench.judgement.recommend import Bounds, chosen_setting, percentile_ms, recommend
from bench.record import REFERENCE, UNKNOWN, Report, Setting
from bench.record.speed import compared
from dabnet.errors import InputError
from tests.support.sample_reports import SETTING, sample_report, timed_report

FP32, INT8, OPENVINO = "onnxruntime-fp32", "onnxruntime-int8", "openvino-fp32"

Figures = dict[str, tuple[float, float, float] | None]


def chosen(report: Report, **bounds: Any) -> tuple[str | None, str]:
    """The chosen row's name and what is said."""
    row, lines = recommend(report, chosen_setting(report), Bounds(**bounds))
    return row.name if row else None, "\n".join(lines)


def changed(report: Report, name: str, **accuracy: Any) -> Report:
    rows = []
    for row in report.rows:
        if row.name == name:
            assert row.accuracy is not None
            row = dataclasses.replace(row, accuracy=dataclasses.replace(row.accuracy, **accuracy))
        rows.append(row)
    return dataclasses.replace(report, rows=tuple(rows))


def test_the_fastest_that_fits_is_named_with_its_reason() -> None:
    name, text = chosen(sample_report(), min_miou=0.66, max_latency_ms=100.0)
    assert name == FP32
    assert text.startswith(f"ship {FP32} ({FP32}.onnx) (512x1024, batch 1, scope host)\n")
    assert "because it is the fastest of 3 that meet the bounds" in text
    assert "not considered: tensorrt-fp16: no CUDA driver" in text
    assert f"meets: {FP32}: mIoU 66.31 [64.31, 68.31] % (meets 66 by its estimate only)" in text


def test_rows_that_fit_come_first_with_their_figures() -> None:
    _, text = chosen(sample_report(), min_miou=0.64, max_latency_ms=60.0)
    assert "by its estimate only" not in text and "it is the only row that meets" in text
    assert [line.split(":")[0] for line in text.splitlines()[2:6]] == ["  meets", *3 * ["  misses"]]
    assert "ms (misses 60 by 115.20), peak memory 300.00 MB" in text


def test_where_nothing_fits_the_misses_are_told() -> None:
    name, text = chosen(sample_report(), min_miou=0.67, max_latency_ms=10.0)
    assert name is None
    assert text.startswith("nothing meets the bounds (512x1024")
    (line,) = (line for line in text.splitlines() if line.startswith(f"  misses: {FP32}"))
    assert "% (misses 67 by 0.69), p95 54.05 [" in line and "(misses 10 by 44.05)" in line


def spread(ms: float, share: float) -> list[float]:
    """30 rounds whose logarithms differ from that of ``ms`` by ``share`` up and down in turn."""
    return [ms * math.exp(share * (-1) ** number) for number in range(30)]


def test_of_equal_speed_the_more_accurate_then_the_smaller() -> None:
    rows = {
        REFERENCE: (spread(86, 0.01), 0.66, 3.0),
        FP32: (spread(50, 0.01), 0.60, 1.0),
        OPENVINO: (spread(50.5, 0.01), 0.66, 9.0),  # 1 % slower, within 0.6 %
    }
    name, text = chosen(timed_report(rows), min_miou=0.5)
    assert name == OPENVINO
    assert "2 are the fastest, equal within 3 %, and of these it is the most accurate" in text
    assert f"  equal within 3 %: {FP32} (1.01× [1.01, 1.01] its speed)\n" in text
    name, text = chosen(timed_report({**rows, FP32: (spread(50, 0.01), 0.66, 1.0)}), min_miou=0.5)
    assert name == FP32 and "and of these it is the smallest of those" in text
    # Told apart: no accuracy makes up for it within the bounds.
    name, text = chosen(timed_report({**rows, FP32: (spread(48, 0.01), 0.60, 1.0)}), min_miou=0.5)
    assert name == FP32 and "it is the fastest of 3" in text and "equal" not in text


def test_what_is_not_told_apart_is_said_with_what_would_tell() -> None:
    rows = {
        REFERENCE: (spread(86, 0.01), 0.66, 3.0),
        FP32: (spread(50, 0.0), 0.60, 1.0),
        OPENVINO: (spread(50.5, 0.2), 0.66, 9.0),
    }
    name, text = chosen(timed_report(rows), min_miou=0.5)
    assert name == FP32 and "because it is, by its estimate, the fastest of 3" in text
    half = 2.0452296 * 0.2 * math.sqrt(30 / 29) / math.sqrt(30)  # t of 29 degrees
    target = math.log(1.03) - math.log(1.01)
    needed = math.ceil(30 * (half / target) ** 2)
    (line,) = (line for line in text.splitlines() if line.startswith("  not told apart"))
    assert line == (
        f"  not told apart: {OPENVINO} ({1 / 1.01:.2f}× [{math.exp(-half) / 1.01:.2f},"
        f" {math.exp(half) / 1.01:.2f}] its speed): measure more, about {needed} rounds instead"
        " of 30"
    )
    few = {name: (ms[:1], miou, mb) for name, (ms, miou, mb) in rows.items()}
    _, text = chosen(timed_report(few), min_miou=0.5)
    assert f"  not told apart: {OPENVINO}: measure more, two rounds or more\n" in text


def test_a_row_that_another_is_surely_faster_than_is_never_chosen() -> None:
    """Equal within a margin is no order: OpenVINO is equal to the fastest, and INT8 beats it."""
    rows = {
        REFERENCE: (spread(86, 0.01), 0.60, 3.0),
        FP32: (spread(50, 0.001), 0.60, 3.0),
        INT8: (spread(50.25, 0.04), 0.61, 3.0),
        OPENVINO: (spread(51.25, 0.0), 0.66, 3.0),
    }
    report = timed_report(rows)
    _, first, second, third = (row.timings[0] for row in report.rows)
    pairs = ((first, second), (first, third), (second, third))
    assert [compared(*pair).verdict for pair in pairs] == ["equal", "equal", "faster"]
    name, text = chosen(report, min_miou=0.5)
    assert name == INT8 and "2 are the fastest" in text


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [
        ({"overlap": ("street_001",)}, "calibrated on 1 of the 8 images that it is scored on"),
        ({"calibrated_on": UNKNOWN}, "calibration images unknown"),
        ({"trained_on": "camvid trainval"}, "trained on camvid trainval, which holds images"),
    ],
)
def test_a_score_on_images_that_it_has_seen_never_wins(accuracy: dict[str, Any], said: str) -> None:
    rows: Figures = {REFERENCE: (86, 0.66, 3), FP32: (52, 0.66, 3), INT8: (20, 0.66, 1)}
    report = sample_report(rows)
    assert chosen(report, min_miou=0.6)[0] == INT8
    name, text = chosen(changed(report, INT8, **accuracy), min_miou=0.6)
    assert name == FP32 and f"not considered: † {INT8}: {said}" in text


def test_a_disturbed_timing_is_never_named_without_saying_so() -> None:
    report = sample_report()
    rows = []
    for row in report.rows:
        timings = tuple(
            dataclasses.replace(
                timing,
                turns=(
                    dataclasses.replace(timing.turns[0], marks=("throttled",)),
                    *timing.turns[1:],
                ),
            )
            for timing in row.timings
        )
        rows.append(dataclasses.replace(row, timings=timings))
    name, text = chosen(dataclasses.replace(report, rows=tuple(rows)), min_miou=0.6)
    assert name == FP32 and f"{FP32}: mIoU 66.31" in text
    assert text.count("; its timing was throttled: measure again in quiet") == 4


def test_what_else_must_be_known_is_noted() -> None:
    report = changed(sample_report(), FP32, timed_miou=0.61)
    _, text = chosen(report, percentile="p99")
    assert "accuracy was not bounded: add --min-miou" in text
    assert "p99 of 48 calls is a guess" in text
    assert "the timed kernels have mIoU 61.00 %, and other arithmetic was scored" in text


def test_memory_and_missing_numbers() -> None:
    assert chosen(sample_report(), max_memory_mb=300.0)[0] == FP32
    name, text = chosen(sample_report(), max_memory_mb=200.0)
    assert name is None and "peak memory 300.00 MB (misses 200 by 100.00)" in text
    report = changed(sample_report(), FP32, score=None)
    name, text = chosen(report, min_miou=0.6)
    assert name in (REFERENCE, INT8)
    assert f"misses: {FP32}: mIoU unknown" in text


def test_the_scope_is_the_one_that_was_asked_for() -> None:
    report = sample_report()
    alone = [dataclasses.replace(row, timings=row.timings[:1]) for row in report.rows]
    report = dataclasses.replace(report, rows=tuple(alone))
    name, text = chosen(report, scope="device")
    assert name is None and f"not considered: {FP32}: not timed in scope device" in text


def test_the_latency_of_one_round_has_no_interval() -> None:
    timing = sample_report().rows[0].timings[0]
    interval = percentile_ms(timing, "p95")
    assert timing.latency and interval.value == timing.latency.p95_ms
    assert interval.low < interval.value < interval.high < 1.1 * interval.value
    logs = [math.log(np.percentile(turn.samples_ns, 95)) for turn in timing.turns]
    half = 3.1824463 * np.std(logs, ddof=1) / 2  # t of 3 degrees, of 4 rounds
    assert interval.high / interval.value == pytest.approx(math.exp(half))
    slow = dataclasses.replace(timing.turns[0], samples_ns=(10**12,), counted=False)
    repeated = dataclasses.replace(timing, turns=(slow, *timing.turns))
    assert percentile_ms(repeated, "p95") == interval
    one = dataclasses.replace(timing, turns=timing.turns[:1])
    assert percentile_ms(one, "p95").high == math.inf


def test_the_setting_is_chosen_or_asked_for() -> None:
    small, large, streams = (
        Setting((360, 480)),
        Setting((512, 1024), batch=8),
        Setting((512, 1024), streams=2),
    )
    report = sample_report(settings=(large, streams, SETTING))
    assert chosen_setting(report) == SETTING
    assert chosen_setting(report, batch=8) == large
    report = sample_report(settings=(SETTING, small))
    with pytest.raises(InputError, match="several sizes .*; expected one size; add --size"):
        chosen_setting(report)
    assert chosen_setting(report, (360, 480)) == small
    with pytest.raises(InputError, match="--size 360x480 --batch 2; expected one of: 512x1024, b"):
        chosen_setting(report, (360, 480), 2)
