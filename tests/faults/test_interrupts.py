"""Signals at random moments: the command ends, leaves nothing half-done, and can be run again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.originals import MODULES, SIZE, Originals
from tests.faults.server import in_session
from tests.support.processes import environment

LONGEST_S = 8  # until a signal
END_S = 60
COMMANDS = {
    "train": lambda o: ["train", "--data-dir", o.data, "--output", "o", *o.tiny],
    "calibration": lambda o: [
        *("export", "calibration", o.weights, "--size", SIZE, "--count", 300),
        *("--output", "o"),
    ],
    "onnx": lambda o: [
        *("export", "onnx", o.weights, "--size", SIZE, "--precision", "int8"),
        *("--calibration-images", 100, "--output", "o"),
    ],
    "trt": lambda o: ["export", "trt", o.fp32, "--target", "sm86", "--output", "o"],
    "bench": lambda o: [
        *("bench", o.weights, "--size", SIZE, "--backend", "pytorch-fp32", "--output", "o"),
        *("--cache-dir", "cache"),
    ],
}
MOMENTS = [
    pytest.param(command, number, seed, marks=() if seed == 0 else pytest.mark.slow)
    for command in COMMANDS
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    for seed in range(6)
    if seed or (command, number) in (("train", signal.SIGTERM), ("onnx", signal.SIGINT))
]


def started(words: Sequence[object], folder: Path) -> subprocess.Popen[str]:
    program = f"from {MODULES[str(words[0])]} import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words[1:])],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(("command", "number", "seed"), MOMENTS)
def test_a_signal_ends_a_command(
    command: str, number: signal.Signals, seed: int, originals: Originals, tmp_path: Path
) -> None:
    words = COMMANDS[command](originals)
    process = started(words, tmp_path)
    moment = random.Random(f"{command} {number} {seed}").uniform(0.4, LONGEST_S)
    time.sleep(moment)
    process.send_signal(number)
    out, err = process.communicate(timeout=END_S)
    finished = process.returncode == 0  # before the signal
    if number == signal.SIGKILL:
        assert finished or process.returncode == -signal.SIGKILL
    else:
        # The interpreter itself may not have been ready.
        ready = finished or process.returncode in (130, -number)
        assert ready, f"after {moment:.2f} s: {process.returncode}, {err}"
        assert "Traceback" not in err
        left = [p.name for p in tmp_path.rglob(".*") if not p.name.startswith(".bench-")]
        assert left == [], out
    deadline = time.monotonic() + 5
    while (alive := in_session(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for orphan in alive:
        os.kill(orphan, signal.SIGKILL)
    assert alive == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["calibration", "onnx"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_broken_off_ends_in_the_file_of_an_unbroken_run(
    command: str, number: signal.Signals, originals: Originals, tmp_path: Path
) -> None:
    words = COMMANDS[command](originals)
    files = []
    for name, moments in (("whole", ()), ("broken", (5.0, 9.0))):
        folder = tmp_path / name
        folder.mkdir()
        for moment in moments:
            process = started(words, folder)
            time.sleep(moment)
            process.send_signal(number)
            process.communicate(timeout=END_S)
        process = started(words, folder)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        files.append((folder / "o").read_bytes())
        assert [path.name for path in folder.iterdir()] == ["o"]
    assert files[0] == files[1]
