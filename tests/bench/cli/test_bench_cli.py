"""``dabnet-bench`` as a user meets it: real processes and the files that they leave."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dabnet.files import sha256_of_file
from dabnet.runtime.cuda import gpu_unavailable_reason
from export.onnx_file import load_onnx, manifest_of
from tests.support import ROOT
from tests.support.processes import DABNET_BENCH, run_python, write_known_peaks
from tests.support.seeded_checkpoint import SIZE, write_checkpoint

NAMES = (
    "pytorch-fp32",
    "onnxruntime-fp32",
    "onnxruntime-fp16",
    "onnxruntime-int8",
    "openvino-fp32",
    "tensorrt-fp32",
    "tensorrt-fp16",
    "tensorrt-int8",
)
"""Which rows there are by default depends on the processor: tests/bench/backends."""
BACKENDS = tuple(word for name in NAMES for word in ("--backend", name))
SCOPES = (["host", "device"], ["device", "host"])
RAN = ("pytorch-fp32", "onnxruntime-fp32", "onnxruntime-int8")
SMALL = (
    *("--size", f"{SIZE[0]}x{SIZE[1]}", "--rounds", "3", "--min-time", "0.15"),
    *("--max-images", "2", "--calibration-images", "2", "--device", "cpu", "--threads", "1"),
)
MORE = ("--pictures", "1", "--layers")
without_gpu = pytest.mark.skipif(gpu_unavailable_reason() is None, reason="there is a GPU here")


def dabnet_bench(
    *arguments: str, folder: Path, before: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command in ``folder``; what lies in ``before`` hides installed packages."""
    path = f"{before}{os.pathsep}{ROOT}" if before else str(ROOT)
    return run_python(DABNET_BENCH, *arguments, folder=folder, PYTHONPATH=path)


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
        """Precision → the ONNX file of onnxruntime's row in the cache."""
        folder = self.folder / ".dabnet-cache"
        return {
            precision: folder / self.rows[f"onnxruntime-{precision}"]["artifact"]
            for precision in ("fp32", "int8")
        }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("bench")
    write_checkpoint(folder, decisive=True)
    result = dabnet_bench("seeded.pth", *SMALL, *BACKENDS, *MORE, folder=folder)
    assert result.returncode == 0, result.stderr
    record = json.loads((folder / "runs/bench/bench.json").read_text(encoding="utf-8"))
    return Run(folder, result, record)


def test_the_record_names_the_run(run: Run) -> None:
    record = run.record
    assert tuple(run.rows) == NAMES and record["complete"]
    assert record["subjects"][0]["sha256"] == sha256_of_file(run.folder / "seeded.pth")
    assert (record["dataset"], record["split"]) == ("toy-street", "val")
    assert len(record["images"]) == 2 and record["labelled"]
    assert record["scenario"]["rounds"] == 3 and record["scenario"]["cpu_threads"] == 1
    assert 0 < record["harness_ns"] < 1e6 and record["peaks"]["multiply_adds_per_s"]["fp32"] > 1e8


@pytest.mark.parametrize("name", RAN)
def test_a_row_says_what_was_measured(run: Run, name: str) -> None:
    row = run.rows[name]
    assert row["setting"] == {"size": list(SIZE), "batch": 1, "streams": 1}
    assert [timing["scope"] for timing in row["timings"]] in SCOPES
    assert row["info"]["precision"] == name.split("-")[1]
    assert row["info"]["shape"] == [1, *SIZE, 3]
    score, footprint = row["accuracy"]["score"], row["footprint"]
    assert 0 <= score["miou"]["low"] <= score["miou"]["value"] <= score["miou"]["high"] <= 1
    assert len(score["class_iou"]) == len(run.record["classes"]) == 11
    assert footprint["host_peak_bytes"] > 2e7 and footprint["load_s"] > 0
    assert 0 < row["limit"]["share"] < 1 and row["limit"]["kernels"] > 60
    assert abs(sum(layer["share"] for layer in row["layers"]) - 1) < 1e-9


def test_accuracy_is_compared_with_the_reference(run: Run) -> None:
    reference, fp32, int8 = (run.rows[name]["accuracy"] for name in RAN)
    assert (reference["agreement"], reference["score"]["miou_difference"]) == (None, None)
    assert min(fp32["agreement"]) >= 0.999 and 0.95 <= np.mean(int8["agreement"]) < 1.0
    assert abs(fp32["score"]["miou_difference"]["value"]) < 1e-3
    assert (fp32["arithmetic"], int8["arithmetic"]) == ("", "exact Q/DQ in float32")
    assert (fp32["calibrated_on"], int8["calibrated_on"]) == ("", "2 images of toy-street train")
    assert int8["overlap"] == [] and "†" not in run.result.stdout
    assert "onnxruntime-int8: accuracy in exact Q/DQ in float32" in run.result.stdout
    file = run.rows["onnxruntime-int8"]
    assert file["footprint"]["artifact_bytes"] == run.cached["int8"].stat().st_size
    assert file["manifest"]["precision"] == "int8" and file["artifact"] == run.cached["int8"].name


def test_raw_samples_reproduce_the_figures(run: Run) -> None:
    medians = {}
    for name in RAN:
        for timing in run.rows[name]["timings"]:
            counted = [turn for turn in timing["turns"] if turn["counted"]]
            assert [turn["round"] for turn in counted] == [0, 1, 2]
            assert all(len(turn["samples_ns"]) >= 3 for turn in counted)
            samples = np.concatenate([np.array(t["samples_ns"]) for t in counted]) / 1e6
            latency = timing["latency"]
            assert latency["calls"] == len(samples)
            assert latency["p50_ms"] == pytest.approx(np.percentile(samples, 50))
            assert latency["p99_ms"] == pytest.approx(np.percentile(samples, 99))
            seconds = sum(turn["wall_s"] for turn in counted)
            assert timing["fps"]["value"] == pytest.approx(len(samples) / seconds)
            medians[name, timing["scope"]] = [np.median(turn["samples_ns"]) for turn in counted]
    for timing in run.rows[RAN[1]]["timings"]:
        reference, candidate = (medians[name, timing["scope"]] for name in RAN[:2])
        logs = np.log(np.array(reference) / np.array(candidate))
        assert timing["speed_ratio"]["value"] == pytest.approx(np.exp(np.mean(logs)))
        assert timing["verdict"] in ("faster", "slower", "equal", "not told apart")


@without_gpu
def test_tensorrt_rows_say_why_they_did_not_run(run: Run) -> None:
    for name in (name for name in NAMES if name.startswith("tensorrt")):
        row = run.rows[name]
        assert row["reason"] == gpu_unavailable_reason()
        assert not (row["timings"] or row["accuracy"] or row["info"])
    assert run.result.stdout.count("tensorrt-fp32, tensorrt-fp16, tensorrt-int8: not run: ") == 1
    assert "computes FP16 graphs in FP32" in run.rows["onnxruntime-fp16"]["reason"]


def test_pictures_show_every_row_and_where_it_differs(run: Run) -> None:
    from PIL import Image

    shown = {picture["shows"]: picture["file"] for picture in run.record["pictures"]}
    assert {"image", "truth", *RAN, *(f"{name} differs" for name in RAN[1:])} <= set(shown)
    for file in shown.values():
        with Image.open(run.folder / "runs/bench" / file) as picture:
            assert picture.size == SIZE[::-1]
    page = (run.folder / "runs/bench/bench.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == len(shown)


@pytest.mark.slow
def test_the_cache_is_reused_and_a_damaged_file_remade(run: Run) -> None:
    cached = run.cached
    sound = {name: (path.read_bytes(), path.stat().st_mtime_ns) for name, path in cached.items()}
    folder = run.folder / ".dabnet-cache"
    write_known_peaks(folder)  # which the first run did not keep if others used the processor
    files = sorted(folder.iterdir())
    cached["fp32"].write_bytes(sound["fp32"][0][:-2000])  # a copy that broke off in the manifest
    again = dabnet_bench(
        *("seeded.pth", *SMALL, "--backend", "onnxruntime-fp32", "--backend", "onnxruntime-int8"),
        *("--output", "again", "--pictures", "0"),
        folder=run.folder,
    )
    assert again.returncode == 0, again.stderr
    assert sorted(folder.iterdir()) == files  # the same names, and nothing more
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
        # Without the reference in the run, nothing is said to be compared with it.
        accuracy = row["accuracy"]
        assert (accuracy["agreement"], accuracy["score"]["miou_difference"]) == (None, None)
        assert {timing["speed_ratio"] for timing in row["timings"]} == {None}
        assert accuracy["score"]["miou"] == run.rows[row["name"]]["accuracy"]["score"]["miou"]


@pytest.mark.slow
def test_without_onnxruntime_the_row_names_the_extra(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    write_known_peaks(tmp_path / ".dabnet-cache")
    (hidden / "onnxruntime.py").write_text("raise ImportError('it is hidden')\n")
    wanted = ("--backend", "null", "--backend", "onnxruntime-fp32")
    result = dabnet_bench("seeded.pth", *SMALL, *wanted, folder=tmp_path, before=hidden)
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "runs/bench/bench.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in record["rows"]}
    assert rows["null-harness"]["timings"][0]["latency"]["p50_ms"] > 0
    assert "pip install '.[cpu]'" in rows["onnxruntime-fp32"]["reason"]
    assert rows["onnxruntime-fp32"]["timings"] == []
    # Brackets are markup to the library that draws the table.
    assert result.stdout.replace("\n", "").replace(" ", "").count("'.[cpu]'") == 1


BAD_INPUTS = {
    "backend": (
        ["--backend", "onnxruntime-bf16"],
        "unknown backend 'onnxruntime-bf16'; expected all, pytorch",
    ),
    "folder": (["--images", "nowhere"], "no directory at 'nowhere'"),
    "dataset": (["--dataset", "kitti"], "'kitti' is not one of 'camvid', 'cityscapes'"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_one_line(tmp_path: Path, case: str) -> None:
    arguments, expected = BAD_INPUTS[case]
    write_checkpoint(tmp_path)
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
