"""Two records: what is a regression, what is chance, and what is only another machine."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from bench.judgement.compare import (
    BETTER,
    DIRECT,
    NEW,
    NORMALISED,
    NOT_JUDGED,
    REGRESSION,
    SUSPECT,
    WORSE,
    Comparison,
    Finding,
    Limits,
    compare,
    miou_change,
    of_miou,
)
from bench.record import REFERENCE, Report, Score, Setting
from bench.statistics import EQUAL, NOT_TOLD
from dabnet.errors import InputError
from dabnet.intervals import Interval, miou_difference
from dabnet.metrics import Counts
from tests.support.sample_reports import ROWS, SETTING, SUBJECT, sample_report

FP32, INT8 = "onnxruntime-fp32", "onnxruntime-int8"
OTHER = {"processor": "another one", "gpu": "none"}


def rows(**factors: float) -> dict[str, tuple[float, float, float] | None]:
    """The sample's rows, slower by a factor each; ``_`` stands for ``-``, ``every`` for all."""
    made: dict[str, tuple[float, float, float] | None] = {}
    for name, figures in ROWS.items():
        factor = factors.get(name.replace("-", "_"), 1.0) * factors.get("every", 1.0)
        made[name] = figures and (figures[0] * factor, figures[1], figures[2])
    return made


def found(old: Report, new: Report, **limits: Any) -> Comparison:
    return compare(old, new, Limits(**limits))


def finding(comparison: Comparison, name: str, what: str) -> Finding:
    (one,) = (f for f in comparison.findings if (f.name, f.what) == (name, what))
    return one


def test_speeds_of_other_outputs_are_not_judged() -> None:
    """A call that also gives the confidence does more."""
    old, new = sample_report(), sample_report(rows(every=1.5))
    both = [r.info and dataclasses.replace(r.info, head="mask+confidence") for r in new.rows]
    pairs = zip(new.rows, both, strict=True)
    changed = tuple(dataclasses.replace(row, info=info) for row, info in pairs)
    result = finding(found(old, dataclasses.replace(new, rows=changed)), FP32, "host speed")
    assert result.outcome == NOT_JUDGED
    assert result.note == "other outputs: mask and mask+confidence"
    assert finding(found(old, new), FP32, "host speed").outcome != NOT_JUDGED


# --- intervals --------------------------------------------------------------------------------


def matrices(seed: int, images: int = 12, classes: int = 4) -> Counts:
    counts = np.random.default_rng(seed).integers(0, 50, (images, classes, classes))
    counts[:, 2, :] = counts[:, :, 2] = 0  # a class that does not occur
    return counts + 200 * np.eye(classes, dtype=np.int64) * (np.arange(classes) != 2)


def scored(counts: Counts) -> Score:
    hits = np.diagonal(counts, axis1=1, axis2=2)
    unions = counts.sum(1) + counts.sum(2) - hits
    nested = (tuple(map(tuple, values.tolist())) for values in (hits, unions))
    return Score(Interval(0, 0, 0), None, (), (), 0.0, *nested)


def test_the_paired_change_is_that_of_the_confusion_matrices() -> None:
    old, new = matrices(1), matrices(2)
    change, expected = miou_change(scored(old), scored(new), True), miou_difference(new, old)
    assert dataclasses.astuple(change) == pytest.approx(dataclasses.astuple(expected), abs=1e-12)
    apart = miou_change(scored(old), scored(new), False)
    assert apart.value == change.value and apart.low < change.value < apart.high
    same = miou_change(scored(old), scored(old), True)
    assert same == Interval(0.0, 0.0, 0.0)
    assert miou_change(scored(old), scored(old), False).high > 0.001


# --- speed ------------------------------------------------------------------------------------


def test_the_same_code_passes() -> None:
    """30 pairs of runs; of 8 speeds each no interval is wholly 3 % slower."""
    for seed in range(30):
        comparison = found(sample_report(seed=seed), sample_report(seed=100 + seed))
        assert comparison.count(REGRESSION) == 0
        assert comparison.basis == DIRECT


def test_a_slow_down_past_the_threshold_is_found_and_nothing_else() -> None:
    for seed in range(10):
        new = sample_report(rows(onnxruntime_fp32=1.1), seed=100 + seed)
        comparison = found(sample_report(seed=seed), new)
        regressions = [(f.name, f.what) for f in comparison.findings if f.outcome == REGRESSION]
        assert regressions == [(FP32, "host speed"), (FP32, "device speed")]
        assert comparison.findings[0].outcome == REGRESSION
        change = comparison.findings[0].change
        assert change and change.low < 1 / 1.1 * 1.02 and change.high > 1 / 1.1 * 0.98
    assert found(sample_report(), new, slowdown=0.2).count(REGRESSION) == 0


@pytest.mark.parametrize(
    ("factor", "slowdown", "outcome"),
    [(1.1, 0.03, REGRESSION), (1.1, 0.08, SUSPECT), (1.1, 0.3, WORSE), (0.9, 0.03, BETTER)],
)
def test_outcomes_of_one_change(factor: float, slowdown: float, outcome: str) -> None:
    new = sample_report(rows(openvino_fp32=factor), seed=5)
    comparison = found(sample_report(), new, slowdown=slowdown)
    assert finding(comparison, "openvino-fp32", "host speed").outcome == outcome
    assert comparison.count(SUSPECT) >= (outcome == SUSPECT)


def test_what_few_rounds_do_not_tell_is_not_called_equal() -> None:
    """The rule of the tables (``bench.statistics.verdict``) on two runs of the same code."""
    old, new = sample_report(), sample_report(seed=1)
    assert finding(found(old, new), FP32, "host speed").outcome == EQUAL
    few = [
        dataclasses.replace(
            report,
            rows=tuple(
                dataclasses.replace(
                    row,
                    timings=tuple(
                        dataclasses.replace(
                            timing, turns=tuple(t for t in timing.turns if t.round < 2)
                        )
                        for timing in row.timings
                    ),
                )
                for row in report.rows
            ),
        )
        for report in (old, new)
    ]
    told = finding(found(*few), FP32, "host speed")
    assert told.outcome == NOT_TOLD


def test_a_slower_machine_is_no_regression_but_a_slower_row_on_it_is() -> None:
    old = sample_report()
    new = sample_report(rows(every=2.0), seed=1, environment=OTHER)
    comparison = found(old, new)
    assert comparison.basis == NORMALISED and comparison.count(REGRESSION) == 0
    assert finding(comparison, REFERENCE, "host speed").outcome == NOT_JUDGED
    row = finding(comparison, FP32, "host speed")
    assert row.change and row.normalised
    assert row.change.high < 0.55 and row.normalised.low < 1 < row.normalised.high
    assert "processor: a processor (2 logical cores) → another one" in comparison.differences
    new = sample_report(rows(every=2.0, onnxruntime_fp32=1.2), seed=1, environment=OTHER)
    assert finding(found(old, new), FP32, "host speed").outcome == REGRESSION


def test_another_machine_without_the_reference_is_not_judged() -> None:
    old = sample_report()
    new = sample_report(rows(every=2.0), seed=1, environment=OTHER)
    new = dataclasses.replace(new, rows=tuple(r for r in new.rows if r.name != REFERENCE))
    comparison = found(old, new)
    row = finding(comparison, FP32, "host speed")
    assert row.outcome == NOT_JUDGED and "another machine, and no pytorch-fp32" in row.note


def test_a_machine_that_became_slower_is_told_and_condemns_no_row() -> None:
    """What two runs of the same code in a busy hour give: all rows are slower alike."""
    old, new = sample_report(), sample_report(rows(every=1.1), seed=1)
    comparison = found(old, new)
    assert any(f"{REFERENCE} itself is 0.9" in line for line in comparison.differences)
    row = finding(comparison, FP32, "host speed")
    assert row.outcome == SUSPECT and row.note == f"{REFERENCE} slowed down as much"
    # The reference itself has nothing beside it: a quiet run is believed, a disturbed one not.
    assert finding(comparison, REFERENCE, "host speed").outcome == REGRESSION
    reference = finding(found(old, disturbed(new)), REFERENCE, "host speed")
    assert reference.outcome == SUSPECT and reference.note.endswith("; disturbed")
    # A row that slowed down more than the machine is found, disturbed or not.
    slower = sample_report(rows(every=1.1, onnxruntime_fp32=1.2), seed=1)
    for report in (slower, disturbed(slower)):
        assert finding(found(old, report), FP32, "host speed").outcome == REGRESSION


def disturbed(report: Report) -> Report:
    """The report with a mark on the first turn of every row."""
    marked = []
    for row in report.rows:
        timings = tuple(
            dataclasses.replace(
                t, turns=(dataclasses.replace(t.turns[0], marks=("disturbed",)), *t.turns[1:])
            )
            for t in row.timings
        )
        marked.append(dataclasses.replace(row, timings=timings))
    return dataclasses.replace(report, rows=tuple(marked))


def test_the_load_before_a_run_is_no_difference_of_machines() -> None:
    old, new = (sample_report(environment={"load average": load}) for load in ("0.1", "0.9"))
    assert found(old, new).differences == ()
    assert found(old, new).basis == DIRECT


# --- accuracy, memory, rows -------------------------------------------------------------------


def test_accuracy_is_paired_on_the_same_images() -> None:
    changed = rows() | {INT8: (88.0, 0.6517, 1.0)}
    comparison = found(sample_report(), sample_report(changed))
    row = finding(comparison, INT8, "accuracy")
    assert row.outcome == REGRESSION and row.note == "" and row.change
    assert row.change.value == pytest.approx(-0.01, abs=2e-3)
    assert finding(comparison, FP32, "accuracy").outcome == EQUAL
    assert found(sample_report(), sample_report(changed), miou_drop=0.02).count(REGRESSION) == 0
    others = tuple(f"other_{number}" for number in range(8))
    row = finding(found(sample_report(), sample_report(changed, images=others)), INT8, "accuracy")
    assert row.note == "other images: unpaired" and row.change
    comparison = found(sample_report(), sample_report(changed, split="test"))
    assert finding(comparison, INT8, "accuracy").outcome == NOT_JUDGED


def marked(report: Report, **accuracy: str) -> Report:
    """The report with what ``INT8`` has seen."""
    others = [
        dataclasses.replace(row, accuracy=dataclasses.replace(row.accuracy, **accuracy))
        if row.name == INT8 and row.accuracy
        else row
        for row in report.rows
    ]
    return dataclasses.replace(report, rows=tuple(others))


@pytest.mark.parametrize(
    "seen", [{"trained_on": "camvid trainval"}, {"calibrated_on": "unknown images"}]
)
def test_a_score_on_seen_images_is_no_gain(seen: dict[str, str]) -> None:
    """But a fall in spite of them is one."""
    plain, higher, lower = (
        sample_report(rows() | {INT8: (88.0, miou, 1.0)}) for miou in (0.66, 0.75, 0.55)
    )
    for old, new, outcome in (
        (plain, marked(higher, **seen), NOT_JUDGED),
        (plain, marked(lower, **seen), REGRESSION),
        (marked(higher, **seen), plain, NOT_JUDGED),
        (marked(higher, **seen), marked(plain, **seen), REGRESSION),
    ):
        told = finding(found(old, new), INT8, "accuracy")
        assert told.outcome == outcome and told.change
        both = old is not plain and new is not plain
        assert ("may have seen the images" in told.note) != both


@pytest.mark.parametrize(
    ("low", "value", "high", "outcome"),
    [
        (-0.02, -0.01, -0.004, REGRESSION),
        (-0.02, -0.01, 0.001, SUSPECT),
        (-0.002, -0.001, -0.0005, WORSE),
        (0.0005, 0.001, 0.002, BETTER),
        (0.01, 0.02, 0.03, BETTER),
        (-0.003, 0.0, 0.003, EQUAL),
        (-0.0031, 0.0, 0.001, NOT_TOLD),
        (-0.001, 0.0, 0.0031, NOT_TOLD),
    ],
)
def test_outcomes_of_a_change_of_miou(low: float, value: float, high: float, outcome: str) -> None:
    assert of_miou(Interval(value, low, high), 0.003) == outcome


def test_memory_is_judged_where_asked_for() -> None:
    new = sample_report()
    grown = dataclasses.replace(new.rows[1].footprint, host_peak_bytes=330_000_000)
    bigger = dataclasses.replace(new.rows[1], footprint=grown)
    new = dataclasses.replace(new, rows=(new.rows[0], bigger, *new.rows[2:]))
    assert found(sample_report(), new).count(REGRESSION) == 0
    comparison = found(sample_report(), new, memory_growth=0.05)
    assert [(f.name, f.what) for f in comparison.findings if f.outcome == REGRESSION] == [
        (bigger.name, "host memory")
    ]
    assert found(sample_report(), new, memory_growth=0.15).count(REGRESSION) == 0
    (smaller,) = (
        f
        for f in found(new, sample_report(), memory_growth=0.05).findings
        if (f.name, f.what) == (bigger.name, "host memory")
    )
    assert smaller.outcome == BETTER


def test_rows_that_are_gone_are_regressions_and_new_ones_told() -> None:
    with_new = rows() | {FP32: None, "tensorrt-fp16": (5.0, 0.66, 2.0), "x-fp32": (9.0, 0.66, 1.0)}
    del with_new[INT8]
    comparison = found(sample_report(), sample_report(with_new))
    outcomes = {f.name: (f.outcome, f.note) for f in comparison.findings if f.what == "row"}
    assert outcomes[INT8] == (REGRESSION, "missing in the new record")
    assert outcomes[FP32][0] == REGRESSION and outcomes[FP32][1].startswith("fails now: no CUDA")
    assert outcomes["x-fp32"][0] == NEW and outcomes["tensorrt-fp16"][0] == BETTER
    assert comparison.count(REGRESSION) == 2
    same = found(sample_report(), sample_report())
    assert finding(same, "tensorrt-fp16", "row").outcome == NOT_JUDGED  # failed before, too


def test_a_scope_that_the_new_run_did_not_ask_for_is_no_regression() -> None:
    new = sample_report()
    alone = [dataclasses.replace(row, timings=row.timings[:1]) for row in new.rows]
    comparison = found(sample_report(), dataclasses.replace(new, rows=tuple(alone)))
    assert finding(comparison, FP32, "device speed").outcome == NOT_JUDGED
    mixed = dataclasses.replace(new, rows=(new.rows[0], alone[1], *new.rows[2:]))
    assert finding(found(sample_report(), mixed), FP32, "device speed").outcome == REGRESSION


def test_differences_of_the_runs_are_a_line_each() -> None:
    large = Setting((512, 1024), batch=8)
    old = sample_report(settings=(SETTING, large))
    other = dataclasses.replace(SUBJECT, label="lednet", model="lednet", sha256="f" * 64)
    new = sample_report(subjects=(other,), complete=False)
    told = found(old, new).differences
    assert "model: dabnet → lednet" in told
    assert f"{large}: only in the old record" in told
    assert any(line.startswith("file: ") for line in told)
    assert "the new record is of a run that was stopped before its end" in told


def test_records_without_a_common_row_are_refused() -> None:
    other = sample_report(settings=(Setting((360, 480)),))
    with pytest.raises(InputError, match="no row in common .512x1024, batch 1 and 360x480"):
        found(sample_report(), other)
