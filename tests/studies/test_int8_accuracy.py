"""The study of INT8 prints what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.isolation import ProcessFailed
from calibration.placements import PLACEMENTS
from calibration.ranges import METHODS
from dabnet.errors import MissingPackage
from dabnet.metrics import mean_iou
from tests.support.study_runs import ROOT, run_study


@pytest.mark.slow
def test_the_table_is_that_of_the_record(tmp_path: Path) -> None:
    words = ["--size", "64x128", "--images", "2", "--calibration-images", "2", "--threads", "1"]
    done = run_study("int8_accuracy", *words, "--json", "int8.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "int8.json").read_text())
    rows, reasons = record["rows"], record["reasons"]
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if "|" in line]
    table = {cells[0]: cells[1:] for cells in lines[2:]}

    ours = [f"{placement}, {method}" for method in METHODS for placement in PLACEMENTS]
    assert list(table)[: len(ours) + 1] == ["FP32", *ours]
    assert set(table) == {*rows, *reasons} - {"default, other sums"}
    for name, row in rows.items():
        per_image = np.array(row["per_image"])
        assert per_image.shape == (2, 11, 11)
        if name == "default, other sums":
            agrees = f"the same mask on {100 * np.mean(row['agreement']):.2f} % of pixels"
            assert agrees in done.stdout
            continue
        miou = float(mean_iou(per_image.sum(0)))
        assert table[name][0] == f"{100 * miou:.2f}"
        if name != "FP32":
            reference = float(mean_iou(np.array(rows["FP32"]["per_image"]).sum(0)))
            assert float(table[name][1].split()[0]) == pytest.approx(
                100 * (miou - reference), abs=0.006
            )
            assert table[name][2] == f"{100 * np.mean(row['agreement']):.2f}"
        assert name == "FP32" or row["arithmetic"].startswith("exact Q/DQ in float")
    counts = {name: row["int8_convolutions"] for name, row in rows.items()}
    assert counts["FP32"] == 0 < counts["dense-only, mse"] < counts["conv-inputs, mse"] == 60

    # What the placement is for: onnxruntime's default puts image and features under one scale.
    peer = "onnxruntime quantize_static"
    assert np.mean(rows[peer]["agreement"]) < np.mean(rows["conv-inputs, mse"]["agreement"])
    for name in ("nncf", "nvidia-modelopt"):  # a row with its masks, or with what brings it
        assert name in rows or "pip install '.[peers]'" in table[name][0]


def test_a_tool_that_fails_is_a_row_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    from int8_peers import quantised_by

    np.save(tmp_path / "images.npy", np.zeros((1, 8, 8, 3), np.uint8))
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    files = [tmp_path / name for name in ("model.onnx", "images.npy", "out.onnx")]
    with pytest.raises(ProcessFailed, match="^failed: [A-Za-z]+: "):
        quantised_by("onnxruntime quantize_static", *files)
    assert not files[-1].exists()


def test_a_tool_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    import int8_peers

    monkeypatch.setitem(int8_peers.PEERS, "absent", ("no-such-package", print))
    with pytest.raises(MissingPackage, match="no-such-package.*peers"):
        int8_peers.Tool("absent").write("model.onnx", "images.npy", "out.onnx")
