"""The record of a run: whose masks are scored, whose calls are timed, and what a row says of it."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from int8_graph import write_int8
from seeded_checkpoint import no_bar
from test_accuracy import FakeDataset, FakeRunner, by_green, by_red, counted, nearly_by_red

from bench.benchmark import benchmark
from bench.candidates import Opened, opened_onnx
from bench.record import Report
from bench.report import csv_text, footnotes, markdown
from bench.timing import Scenario
from dabnet.metrics import mean_iou
from dabnet.runtime.manifest import CalibrationInfo
from dabnet.runtime.runner import RunnerInfo, Uint8Array

SIZE = (8, 16)
FUSED = "fused int8 kernels (QLinearConv 2), which saturate on this CPU"
EXACT = "exact Q/DQ in float32"


class Counting(FakeRunner):
    """Its masks are a function of the image; it says how it computes, and counts its calls."""

    def __init__(self, rule: Any, precision: str = "fp32", arithmetic: str = "") -> None:
        super().__init__(rule, SIZE)
        self.calls = 0
        self.said = RunnerInfo("fake", "1", "none", precision, (1, *SIZE, 3), arithmetic=arithmetic)

    @property
    def info(self) -> RunnerInfo:
        return self.said

    def infer(self, images: Uint8Array) -> Uint8Array:
        self.calls += 1
        return super().infer(images)


def measured(folder: Path, opened: dict[str, Opened]) -> tuple[Report, FakeDataset]:
    """Run ``benchmark`` over candidates that are already open."""
    (folder / "file").write_bytes(b"checkpoint")
    dataset = FakeDataset([SIZE] * 4)
    workshop: Any = SimpleNamespace(
        open=opened.__getitem__,
        spec=SimpleNamespace(size=SIZE, batch=1),
        checkpoint=SimpleNamespace(model="fake"),
        checkpoint_path=folder / "file",
        threads=1,
    )
    scenario = Scenario(rounds=2, round_seconds=1e-4, warmup_seconds=1e-3)
    report, _ = benchmark(workshop, tuple(opened), dataset, scenario, 3, no_bar)
    return report, dataset


def test_accuracy_is_exact_and_time_is_of_the_kernels(tmp_path: Path) -> None:
    file = tmp_path / "file"
    seen = CalibrationInfo("mse", "fake", "train", 1, ("0" * 64,))
    timed, exact = Counting(by_green, "int8", FUSED), Counting(nearly_by_red, "int8", EXACT)
    plain = Counting(by_red, "int8", EXACT)
    report, dataset = measured(
        tmp_path,
        {
            "pytorch-fp32": Opened(Counting(by_red), file),
            "onnxruntime-int8": Opened(timed, file, exact, seen),
            "tensorrt-int8": Opened(plain, file, calibration=seen),
        },
    )
    reference, fused, other = report.rows
    items = dataset.items[:3]

    def miou(rule: Any) -> float:
        return float(mean_iou(sum(counted(rule(item.image), item.label) for item in items)))

    def same(a: Any, b: Any) -> float:
        return float(np.mean([a(item.image) == b(item.image) for item in items]))

    assert exact.calls == 3 < timed.calls  # what is exact is never timed
    assert fused.miou is not None and fused.miou.value == pytest.approx(miou(nearly_by_red))
    assert fused.agreement == pytest.approx(same(nearly_by_red, by_red))
    assert fused.timed_miou == pytest.approx(miou(by_green))
    assert fused.timed_agreement == pytest.approx(same(by_green, nearly_by_red))
    assert fused.arithmetic == EXACT and fused.info is not None
    assert fused.info.arithmetic == FUSED
    assert (other.arithmetic, other.timed_miou, other.timed_agreement) == (EXACT, None, None)
    assert (reference.arithmetic, reference.timed_miou) == ("", None)

    notes = footnotes(report)
    assert (
        f"onnxruntime-int8: accuracy in {EXACT}; timed were {FUSED}: the same mask on"
        f" {100 * same(by_green, nearly_by_red):.2f} % of pixels (mIoU {100 * miou(by_green):.2f})."
    ) in notes
    assert f"tensorrt-int8: accuracy in {EXACT}." in notes
    assert not any(note.startswith("pytorch-fp32") for note in notes)
    assert all(f"- {note}" in markdown(report) for note in notes)
    lines = {line["name"]: line for line in csv.DictReader(io.StringIO(csv_text(report)))}
    assert float(lines["onnxruntime-int8"]["timed_agreement"]) == fused.timed_agreement
    assert lines["tensorrt-int8"]["timed_agreement"] == ""
    assert lines["onnxruntime-int8"]["arithmetic"] == EXACT


def test_an_unknown_calibration_is_marked(tmp_path: Path) -> None:
    cache = CalibrationInfo("tensorrt-entropy", "fake", "unknown", 0)
    file = tmp_path / "file"
    report, _ = measured(
        tmp_path,
        {
            "pytorch-fp32": Opened(Counting(by_red), file),
            "tensorrt-int8": Opened(Counting(by_green, "int8"), file, calibration=cache),
        },
    )
    reference, int8 = report.rows
    assert (reference.calibrated_on, int8.calibrated_on) == ("", "unknown images")
    note = "† tensorrt-int8: calibration images unknown: it may be scored on them."
    assert note in footnotes(report)
    text = markdown(report)
    assert int8.miou is not None and f"| {100 * int8.miou.value:.2f} † |" in text
    assert text.count("†") == 2 and note in text


def test_a_file_is_opened_twice_where_onnxruntime_fuses_it(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    fused = opened_onnx(write_int8(tmp_path, fuses=True), "cpu", 1)
    assert fused.exact is not None and fused.scored is fused.exact
    assert fused.scored.info.arithmetic == EXACT
    assert fused.runner.info.arithmetic.startswith("fused int8 kernels")
    assert fused.calibration is not None and fused.calibration.method == "fixed"
    plain = opened_onnx(write_int8(tmp_path, fuses=False), "cpu", 1)
    assert plain.exact is None and plain.scored is plain.runner
    for opened in (fused, plain):
        opened.close()
