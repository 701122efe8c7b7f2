"""``dabnet-bench`` as a user meets it: real processes and the files that they leave."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seeded_checkpoint import SIZE, write_checkpoint

from dabnet.files import sha256_of_file
from dabnet.runtime.device_memory import gpu_unavailable_reason
from export.onnx_file import load_onnx, manifest_of

REPOSITORY = Path(__file__).parents[2]
NAMES = (
    "pytorch-fp32",
    "onnxruntime-fp32",
    "onnxruntime-fp16",
    "onnxruntime-int8",
    "tensorrt-fp32",
    "tensorrt-fp16",
    "tensorrt-int8",
)
RAN = ("pytorch-fp32", "onnxruntime-fp32", "onnxruntime-int8")
SMALL = (
    *("--size", f"{SIZE[0]}x{SIZE[1]}", "--rounds", "2", "--round-seconds", "0.05"),
    *("--images", "2", "--calibration-images", "2", "--device", "cpu", "--threads", "1"),
)
without_gpu = pytest.mark.skipif(gpu_unavailable_reason() is None, reason="there is a GPU here")


def dabnet_bench(
    *arguments: str, folder: Path, before: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command in ``folder``; what lies in ``before`` hides installed packages."""
    path = f"{before}{os.pathsep}{REPOSITORY}" if before else str(REPOSITORY)
    return subprocess.run(
        [sys.executable, "-c", "from bench.cli import main; main()", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run of all backends, its folder and its record."""

    folder: Path
    result: subprocess.CompletedProcess[str]
    record: dict[str, Any]

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in self.record["rows"]}

    @property
    def cached(self) -> dict[str, Path]:
        """Precision → the ONNX file in the cache."""
        files = (self.folder / ".dabnet-cache").glob("*.onnx")
        return {path.name.split("-")[2]: path for path in files}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("bench")
    write_checkpoint(folder, decisive=True)
    result = dabnet_bench("seeded.pth", *SMALL, "--pictures", "1", folder=folder)
    assert result.returncode == 0, result.stderr
    record = json.loads((folder / "runs/bench/bench.json").read_text(encoding="utf-8"))
    return Run(folder, result, record)


def test_the_record_says_what_was_measured(run: Run) -> None:
    record = run.record
    assert tuple(run.rows) == NAMES
    assert record["checkpoint_sha256"] == sha256_of_file(run.folder / "seeded.pth")
    assert (record["dataset"], record["split"], record["images"]) == ("toy-street", "val", 2)
    assert tuple(record["size"]) == SIZE
    assert record["scenario"]["rounds"] == 2 and record["scenario"]["cpu_threads"] == 1
    for name in RAN:
        row = run.rows[name]
        assert row["scope"] == "host"
        assert row["info"]["precision"] == name.split("-")[1]
        assert row["info"]["shape"] == [1, *SIZE, 3]
        assert 0 <= row["miou"]["low"] <= row["miou"]["value"] <= row["miou"]["high"] <= 1
        assert len(row["class_iou"]) == len(record["classes"]) == 11
    reference, fp32, int8 = (run.rows[name] for name in RAN)
    assert (reference["agreement"], reference["speed_ratio"]) == (1.0, None)
    assert fp32["agreement"] >= 0.999 and 0.95 <= int8["agreement"] < 1.0
    assert abs(fp32["miou_difference"]["value"]) < 1e-3
    assert fp32["verdict"] in ("faster", "slower", "indistinguishable")
    assert (fp32["arithmetic"], int8["arithmetic"]) == ("", "exact Q/DQ in float32")
    assert (fp32["calibrated_on"], int8["calibrated_on"]) == ("", "2 images of toy-street train")
    assert "onnxruntime-int8: accuracy in exact Q/DQ in float32." in run.result.stdout
    assert int8["artifact_bytes"] == run.cached["int8"].stat().st_size


def test_raw_samples_reproduce_the_table(run: Run) -> None:
    for name in RAN:
        row = run.rows[name]
        assert len(row["rounds_ns"]) == 2
        assert all(len(turn) >= 3 for turn in row["rounds_ns"])
        samples = np.concatenate([np.array(turn) for turn in row["rounds_ns"]]) / 1e6
        latency = row["latency"]
        assert latency["calls"] == len(samples)
        assert latency["p50_ms"] == pytest.approx(np.percentile(samples, 50))
        assert latency["p99_ms"] == pytest.approx(np.percentile(samples, 99))
        assert latency["fps"] == pytest.approx(len(samples) / (samples.sum() / 1e3))
        shown = run.result.stdout.splitlines()
        (line,) = (line for line in shown if f" {name} " in line and " host " in line)
        assert f" {np.percentile(samples, 50):.2f} " in line
    reference, candidate = (run.rows[name]["rounds_ns"] for name in RAN[:2])
    logs = [np.log(np.median(a) / np.median(b)) for a, b in zip(reference, candidate, strict=True)]
    assert run.rows[RAN[1]]["speed_ratio"]["value"] == pytest.approx(np.exp(np.mean(logs)))


def test_json_csv_and_markdown_agree(run: Run) -> None:
    folder = run.folder / "runs/bench"
    with (folder / "bench.csv").open(encoding="utf-8", newline="") as stream:
        lines = {line["name"]: line for line in csv.DictReader(stream)}
    markdown = (folder / "bench.md").read_text(encoding="utf-8").splitlines()
    table = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in markdown[: 2 + len(NAMES)]
    ]
    headings, shown = table[0], {cells[0]: cells for cells in table[2:]}
    assert tuple(lines) == tuple(shown) == NAMES
    for name, row in run.rows.items():
        line, cells = lines[name], dict(zip(headings, shown[name], strict=True))
        assert line["ran"] == str(int(name in RAN))
        assert (line["scope"], cells["scope"]) == ("host", "host")
        if name not in RAN:
            assert line["reason"] == row["reason"] and cells["note"] == f"not run: {row['reason']}"
            assert (line["p50_ms"], cells["p50 ms"], row["latency"]) == ("", "–", None)
            continue
        for column in ("p50_ms", "p95_ms", "p99_ms", "min_ms", "fps", "iqr_ms"):
            assert float(line[column]) == row["latency"][column]
        assert float(line["miou"]) == row["miou"]["value"]
        assert float(line["agreement"]) == row["agreement"]
        assert cells["mIoU %"] == f"{100 * row['miou']['value']:.2f}"
        assert cells["FPS"] == f"{row['latency']['fps']:.1f}"
        assert cells["p99 ms"] == f"{row['latency']['p99_ms']:.2f}"
        if name != "pytorch-fp32":
            assert float(line["speed_ratio_low"]) == row["speed_ratio"]["low"]
            assert cells["speed to PyTorch [95 %]"].endswith(row["verdict"])
    by_class = [line for line in markdown if line.startswith(f"| {run.record['classes'][3]} |")]
    assert len(by_class) == 1
    assert f"| {100 * run.rows[NAMES[0]]['class_iou'][3]:.2f} |" in by_class[0]


@without_gpu
def test_tensorrt_rows_say_why_they_did_not_run(run: Run) -> None:
    engines = [name for name in NAMES if name.startswith("tensorrt")]
    for name in engines:
        row = run.rows[name]
        assert row["reason"] == gpu_unavailable_reason()
        assert [key for key, value in row.items() if value] == ["name", "scope", "reason"]
    shown = run.result.stdout
    assert shown.count(" not run ") == 4  # in the table; the reason stands below, once
    assert " ".join(f"{', '.join(engines)}: not run: {row['reason']}".split()) in " ".join(
        shown.split()
    )
    assert "computes FP16 graphs in FP32" in run.rows["onnxruntime-fp16"]["reason"]


def test_a_picture_shows_every_backend(run: Run) -> None:
    from PIL import Image

    (path,) = (run.folder / "runs/bench").glob("overlay_*.png")
    with Image.open(path) as picture:
        assert picture.width >= SIZE[1] and picture.height >= SIZE[0]
    for name in ("bench.json", "bench.csv", "bench.md", path.name):
        assert name in run.result.stdout.replace("\n", "")


def test_the_cache_is_reused_and_a_damaged_file_remade(run: Run) -> None:
    cached = run.cached
    assert sorted(cached) == ["fp32", "int8"]
    sound = {name: (path.read_bytes(), path.stat().st_mtime_ns) for name, path in cached.items()}
    cached["fp32"].write_bytes(sound["fp32"][0][:-2000])  # a copy that broke off in the manifest
    again = dabnet_bench(
        *("seeded.pth", *SMALL, "--backend", "onnxruntime-fp32", "--backend", "onnxruntime-int8"),
        *("--output", "again", "--scope", "device"),
        folder=run.folder,
    )
    assert again.returncode == 0, again.stderr
    assert run.cached == cached  # the same names, and nothing more
    assert list((run.folder / ".dabnet-cache").iterdir()) == list(cached.values())
    assert (cached["int8"].read_bytes(), cached["int8"].stat().st_mtime_ns) == sound["int8"]
    before, now = run.folder / "before.onnx", manifest_of(load_onnx(cached["fp32"]), "remade")
    before.write_bytes(sound["fp32"][0])
    assert now == manifest_of(load_onnx(before), "before")
    record = json.loads((run.folder / "again/bench.json").read_text(encoding="utf-8"))
    assert [(row["name"], row["reason"]) for row in record["rows"]] == [
        ("onnxruntime-fp32", ""),
        ("onnxruntime-int8", ""),
    ]
    for row in record["rows"]:
        assert row["scope"] == "device"
        # Without the reference in the run, nothing is said to be compared with it.
        assert (row["speed_ratio"], row["agreement"], row["miou_difference"]) == (None, None, None)
        assert row["miou"] == run.rows[row["name"]]["miou"]


def test_without_onnxruntime_the_row_names_the_extra(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "onnxruntime.py").write_text("raise ImportError('it is hidden')\n")
    wanted = ("--backend", "pytorch-fp32", "--backend", "onnxruntime-fp32")
    result = dabnet_bench("seeded.pth", *SMALL, *wanted, folder=tmp_path, before=hidden)
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "runs/bench/bench.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in record["rows"]}
    assert rows["pytorch-fp32"]["latency"]["p50_ms"] > 0
    assert "pip install '.[cpu]'" in rows["onnxruntime-fp32"]["reason"]
    assert rows["onnxruntime-fp32"]["latency"] is None
    # Brackets are markup to the library that draws the table; the note is folded in its column.
    notes = "".join(line.strip("│ ").rpartition("│")[2] for line in result.stdout.splitlines())
    assert notes.replace(" ", "").count("'.[cpu]'") == 1
    assert list((tmp_path / ".dabnet-cache").iterdir()) == []


BAD_INPUTS = {
    "backend": (
        ["--backend", "onnxruntime-bf16"],
        "unknown backend 'onnxruntime-bf16'; expected one of",
    ),
    "dataset": (["--dataset", "kitti"], "'kitti' is not one of 'camvid', 'cityscapes'"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_one_line(tmp_path: Path, case: str) -> None:
    arguments, expected = BAD_INPUTS[case]
    (tmp_path / "seeded.pth").write_bytes(b"not read")
    result = dabnet_bench("seeded.pth", *SMALL, *arguments, folder=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and expected in line
    assert [path.name for path in tmp_path.iterdir()] == ["seeded.pth"]


@without_gpu
def test_no_backend_at_all_is_one_line(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    result = dabnet_bench("seeded.pth", *SMALL, "--backend", "tensorrt-int8", folder=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: none of the backends can run here: tensorrt-int8: ")
    assert not (tmp_path / "runs/bench/bench.json").exists()
