"""Whole runs in real processes, with a backend that crashes, hangs and raises among others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from bench.record import Telemetry
from bench.session import _paper_turn
from tests.support import ROOT
from tests.support.fake_clock import NoWatch
from tests.support.hostile import install
from tests.support.processes import DABNET_BENCH, write_known_peaks
from tests.support.seeded_checkpoint import SIZE, write_checkpoint

SMALL = (
    *("--size", f"{SIZE[0]}x{SIZE[1]}", "--rounds", "3", "--min-time", "0.15"),
    *("--max-images", "6", "--threads", "1", "--pictures", "1", "--timeout", "15"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("session")
    install(made / "packages")
    write_checkpoint(made)
    write_known_peaks(made / ".dabnet-cache")
    return made


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), str(folder / "packages")])
    return subprocess.Popen(
        [sys.executable, "-c", DABNET_BENCH, "seeded.pth", *SMALL, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def write_foreign(path: Path, classes: int) -> None:
    """Float planes (1, 3, H, W) in, logits out, without a manifest: what other tools write."""
    random = np.random.default_rng(0)
    weights = random.normal(size=(classes, 3, 1, 1)).astype(np.float32)
    shapes = {"x": [1, 3, *SIZE], "y": [1, classes, *SIZE]}
    tensors = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()}
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "foreign",
        [tensors["x"]],
        [tensors["y"]],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))


def rows_of(folder: Path, output: str) -> dict[str, dict[str, Any]]:
    record = json.loads((folder / output / "bench.json").read_text(encoding="utf-8"))
    return {row["name"]: row for row in record["rows"]}


def backends(*names: str) -> Iterator[str]:
    for name in names:
        yield from ("--backend", name)


@pytest.fixture(scope="module")
def hostile(folder: Path) -> tuple[Path, str]:
    """The output folder of a run with every kind of failure, and what it printed."""
    words = ("--output", "hostile", *backends("pytorch-fp32", "hostile"))
    code, out, err = finished(started(folder, *words))
    assert code == 0, err
    return folder / "hostile", out


def test_rows_that_fail_stay_rows_with_a_reason(hostile: tuple[Path, str]) -> None:
    folder, out = hostile
    rows = rows_of(folder.parent, folder.name)
    assert next(iter(rows)) == "pytorch-fp32" and len(rows) == 9
    reasons = {name.partition("-")[2]: row["reason"] for name, row in rows.items()}
    assert (reasons["fp32"], reasons["steady"], reasons["slower"]) == ("", "", "")
    assert reasons["absent"] == "no device; expected a device; buy one"
    assert reasons["load"] == "failed: OSError: no such library"
    assert reasons["raise"] == "failed: RuntimeError: out of kernels"
    assert reasons["unready"].startswith("its process ended in prepare: SIGSEGV")
    assert reasons["crash"].startswith("its process ended in ") and "SIGSEGV" in reasons["crash"]
    assert reasons["hang"] == "timed out: no sign of life for 25.05 s in warm_up"
    assert all(reason in out for reason in ("out of kernels", "no sign of life", "SIGSEGV"))


def test_beside_rows_that_fail_the_others_are_measured(hostile: tuple[Path, str]) -> None:
    folder, _ = hostile
    rows = rows_of(folder.parent, folder.name)
    for name in ("pytorch-fp32", "hostile-steady", "hostile-slower"):
        for timing in rows[name]["timings"]:
            counted = [turn["round"] for turn in timing["turns"] if turn["counted"]]
            assert counted == [0, 1, 2]
    steady, slower = rows["hostile-steady"], rows["hostile-slower"]
    assert 0.002 < steady["timings"][0]["latency"]["min_ms"] / 1e3 < 0.1
    assert steady["accuracy"]["arithmetic"] == "" and slower["accuracy"]["score"]


def test_logs_of_failures_stay_and_the_reports_are_written(hostile: tuple[Path, str]) -> None:
    folder, _ = hostile
    logs = {path.name for path in (folder / "logs").iterdir()}
    assert "hostile-raise-accuracy.log" not in logs  # an answered error is no lost process
    assert "hostile-hang-timing.log" in logs and any("preparation" in log for log in logs)
    assert not list(folder.glob(".bench-*"))
    for name in ("bench.json", "bench.csv", "bench.md", "bench.html"):
        assert (folder / name).stat().st_size > 500


def test_a_process_that_dies_while_it_is_timed(hostile: tuple[Path, str]) -> None:
    folder, _ = hostile
    rows = rows_of(folder.parent, folder.name)
    assert rows["hostile-crash"]["accuracy"]["score"]["miou"]["value"] > 0
    assert "hostile-crash-timing.log" in {path.name for path in (folder / "logs").iterdir()}
    assert rows["hostile-steady"]["reason"] == ""
    assert len(rows["hostile-steady"]["timings"]) == 2


def test_ctrl_c_leaves_a_valid_record_and_the_run_continues(folder: Path) -> None:
    words = ("--output", "stopped", *backends("hostile-steady", "hostile-slower"))
    words = (*words, "--rounds", "20", "--min-time", "2")
    process = started(folder, *words)
    path = folder / "stopped/bench.json"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
        if path.exists() and rows_of(folder, "stopped")["hostile-steady"]["timings"]:
            turns = rows_of(folder, "stopped")["hostile-steady"]["timings"][0]["turns"]
            if len(turns) >= 3:
                break
    os.killpg(process.pid, signal.SIGINT)
    code, out, err = finished(process)
    assert (code, out) == (130, "") and "interrupted" in err and "Traceback" not in err
    before = json.loads(path.read_text(encoding="utf-8"))
    assert before["complete"] is False
    kept = before["rows"][0]["timings"][0]["turns"]
    assert 3 <= len(kept) < 20

    code, out, err = finished(started(folder, *words, "--rounds", "21"))
    assert code == 2 and "of a stopped run of another request" in err and "--restart" in err
    assert json.loads(path.read_text(encoding="utf-8")) == before

    code, out, err = finished(started(folder, *words))
    assert code == 0 and "continuing a stopped run" in err
    after = json.loads(path.read_text(encoding="utf-8"))
    assert after["complete"] is True and after["started"] == before["started"]
    turns = after["rows"][0]["timings"][0]["turns"]
    assert turns[: len(kept)] == kept
    assert [turn["round"] for turn in turns if turn["counted"]] == list(range(20))


@pytest.mark.slow
def test_frames_that_arrive_are_served_by_a_real_artifact(folder: Path) -> None:
    words = ("--output", "camera", "--scenario", "camera", "--fps", "50", "--cameras", "2")
    code, out, err = finished(started(folder, *words, *backends("pytorch-fp32")))
    assert code == 0, err
    record = json.loads((folder / "camera/bench.json").read_text(encoding="utf-8"))
    assert (record["scenario"]["fps"], record["scenario"]["cameras"]) == (50.0, 2)
    (row,) = record["rows"]
    timings = {timing["scope"]: timing for timing in row["timings"]}
    assert set(timings) == {"host", "device", "camera", "search"}
    for turn in timings["camera"]["turns"]:
        assert turn["frames"]["fps"] == 50.0
        assert len(turn["samples_ns"]) + turn["frames"]["dropped"] == 2 * 50
        assert turn["wall_s"] >= 1.0  # 50 periods
    rates = [turn["frames"]["fps"] for turn in timings["search"]["turns"] if turn["counted"]]
    assert len(rates) == 3 and rates[0] != rates[1]
    assert timings["camera"]["speed_ratio"] is None and timings["search"]["latency"] is None
    assert "too few rounds" in out and "2 cameras of 50 FPS" in out.replace("\n", " ")


@pytest.mark.slow
def test_sweeps_streams_and_a_folder_without_labels(folder: Path) -> None:
    from PIL import Image

    pictures = folder / "frames"
    pictures.mkdir()
    for number in range(3):
        Image.new("RGB", (150, 100), (60 * number, 90, 30)).save(pictures / f"{number}.png")
    words = (
        *("--output", "sweep", "--images", "frames", "--batch", "1", "--batch", "3"),
        *("--size", "32x64", "--scenario", "throughput", "--streams", "2"),
        *backends("hostile-steady", "hostile-absent"),
    )
    code, _, err = finished(started(folder, *words))
    assert code == 0, err
    record = json.loads((folder / "sweep/bench.json").read_text(encoding="utf-8"))
    assert (record["dataset"], record["split"], record["labelled"]) == ("frames", "", False)
    assert record["images"] == ["0.png", "1.png", "2.png"]
    settings = [(row["setting"]["size"], row["setting"]["batch"]) for row in record["rows"]]
    assert settings == [
        (size, batch) for size in ([64, 96], [32, 64]) for batch in (1, 3) for _ in range(2)
    ]
    assert all(row["reason"].startswith("no device") for row in record["rows"][1::2])
    for row in record["rows"][::2]:
        assert row["reason"] == "" and row["accuracy"]["score"] is None and len(row["timings"]) == 2
        assert row["setting"]["streams"] == 2
        for timing in row["timings"]:
            for turn in timing["turns"]:
                # Two calls at a time: together they take longer than the turn.
                assert sum(turn["samples_ns"]) / 1e9 > 1.5 * turn["wall_s"]
    one, three = record["rows"][0]["timings"][0], record["rows"][2]["timings"][0]
    assert three["fps"]["value"] > 2 * one["fps"]["value"]


@pytest.mark.slow
def test_two_networks_and_a_file_of_another_tool_stand_in_one_table(
    folder: Path, hostile: tuple[Path, str]
) -> None:
    state = torch.load(folder / "seeded.pth", weights_only=True)
    for name in ("classifier.0.conv.weight", "init_conv.0.conv.weight"):
        state["model"][name] = state["model"][name].flip(0)
    torch.save(state, folder / "flipped.pth")
    write_foreign(folder / "foreign.onnx", classes=11)
    words = ("flipped.pth", "--onnx", "foreign.onnx", "--mean", "0,0,0", "--output", "several")
    code, out, err = finished(started(folder, *words, *backends("pytorch-fp32", "hostile-steady")))
    assert code == 0, err
    record = json.loads((folder / "several/bench.json").read_text(encoding="utf-8"))
    assert [subject["label"] for subject in record["subjects"]] == ["seeded", "flipped", "foreign"]
    rows = {row["name"]: row for row in record["rows"]}
    ran = [
        f"{of}/{on}" for of in ("seeded", "flipped") for on in ("pytorch-fp32", "hostile-steady")
    ]
    assert list(rows) == [*ran, "foreign/onnxruntime-file"]
    assert {row["reason"] for row in rows.values()} == {""}
    # Each network has its own masks and reference; a file has a score alone.
    seeded, steady, flipped, _, foreign = (row["accuracy"] for row in rows.values())
    assert seeded["score"]["hits"] != flipped["score"]["hits"]
    assert [seeded["agreement"], flipped["agreement"], foreign["agreement"]] == [None] * 3
    assert steady["agreement"] and steady["score"]["miou_difference"]
    assert foreign["score"]["miou_difference"] is None and foreign["score"]["miou"]["value"] >= 0
    # Speed has one reference, in the same rounds.
    ratios = {name: row["timings"][0]["speed_ratio"] for name, row in rows.items()}
    assert [name for name, ratio in ratios.items() if ratio is None] == ["seeded/pytorch-fp32"]
    shown = {picture["shows"] for picture in record["pictures"]}
    assert "flipped/hostile-steady differs" in shown and "flipped/pytorch-fp32 differs" not in shown
    assert "foreign" in out and "Speed ratios are to seeded/pytorch-fp32" in out.replace("\n", " ")
    assert not (folder / "several/logs").exists()


def test_a_turn_by_the_protocol_of_the_paper_is_marked_as_any_other() -> None:
    class Watch(NoWatch):
        def stop(self, own_cpu_s: float) -> Telemetry:
            return Telemetry(foreign_cores=1e12, gpu_energy_j=3.0)

    class Paper:
        pid = 1

        def call(self, method: str) -> float:
            assert method == "run"
            return 0.25

    turn = _paper_turn(Paper(), Watch(), 2)  # type: ignore[arg-type]
    assert (turn.round, turn.wall_s, turn.samples_ns) == (2, 0.25, (250_000_000,))
    assert turn.marks == ("disturbed",) and turn.telemetry.foreign_cores == 1e12
    assert turn.telemetry.gpu_energy_j is None  # its warm-up is in it
