"""Exports, inferences and benches in one process, which must not grow."""

from __future__ import annotations

import gc
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from bench.cli.main import bench_command
from dabnet.artifact import open_artifact
from export.cli.main import export_group
from tests.support.processes import write_known_peaks
from tests.support.seeded_checkpoint import SIZE, write_checkpoint

ROUNDS = 100
WARM_UP = 20
GROWTH = 24 << 20  # bytes over 80 rounds: allocators settle, a leak of a network is 3 MB per round


def _resident() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _held() -> tuple[int, int, int]:
    """Open files, threads and children."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return len(os.listdir("/proc/self/fd")), threading.active_count(), len(children)  # noqa: PTH208


@pytest.mark.slow
def test_a_process_that_works_for_long_does_not_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path)
    write_known_peaks(tmp_path / "cache")
    size = f"{SIZE[0]}x{SIZE[1]}"
    images = np.zeros((1, *SIZE, 3), np.uint8)
    export = ["onnx", "seeded.pth", "--size", size, "--output", "a.onnx"]
    brief = ["--rounds", "2", "--min-time", "0.01", "--max-images", "1", "--pictures", "0"]
    bench = ["seeded.pth", "--backend", "null-harness", "--size", size, *brief, "--threads", "1"]
    bench += ["--cache-dir", "cache", "--output", "bench"]
    grown = []
    for round_ in range(ROUNDS):
        export_group.main(export, standalone_mode=False)
        runner = open_artifact("a.onnx")
        runner.infer(images)
        runner.close()
        bench_command.main(bench, standalone_mode=False)
        shutil.rmtree("bench")
        gc.collect()
        if round_ >= WARM_UP:
            grown.append((_resident(), _held()))
    assert {held for _, held in grown} == {grown[0][1]}
    assert grown[-1][0] - grown[0][0] < GROWTH
