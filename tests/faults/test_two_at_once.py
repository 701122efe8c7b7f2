"""Two runs with one output or one cache, as real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from dabnet.checkpoint import load_checkpoint
from tests.faults.originals import SIZE, Originals
from tests.faults.verdict import snapshot
from tests.support.processes import environment, run_python

HOLD = """
import sys
from pathlib import Path
from dabnet import lock

with getattr(lock, sys.argv[1])(Path(sys.argv[2]), "somebody"):
    print("held", flush=True)
    sys.stdin.readline()
"""
TRAIN = "from dabnet.cli import main; main()"
EXPORT = "from export.cli.main import main; main()"
BENCH = "from bench.cli.main import main; main()"
LOCK = ".dabnet.lock"
WAIT_S = 120


@contextmanager
def holder(how: str, target: Path) -> Iterator[int]:
    """Another process that holds a lock during the block; yield its id."""
    words = [sys.executable, "-c", HOLD, how, str(target)]
    with subprocess.Popen(words, text=True, stdin=-1, stdout=-1, env=environment()) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process.pid
        process.stdin.close()


@contextmanager
def running(program: str, *words: object, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on during the block, at whose end it is killed."""
    line = [sys.executable, "-c", program, *map(str, words)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(line, cwd=folder, text=True, env=environment(), **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def wait_for(found: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def train(made: Originals, output: Path, *more: object) -> Sequence[object]:
    return ["--data-dir", made.data, "--output", output, *made.tiny, *more]


def bench(made: Originals, output: Path, cache: Path) -> Sequence[object]:
    rows = ("--backend", "pytorch-fp32", "--backend", "onnxruntime-fp32", "--threads", 1)
    brief = ("--size", SIZE, "--rounds", 2, "--min-time", 0.01, "--max-images", 2)
    return [made.weights, *rows, *brief, "--output", output, "--cache-dir", cache]


def commands(made: Originals, folder: Path) -> dict[str, tuple[str, Path, str, Sequence[object]]]:
    """Name → how its output is held, the output, the program and its arguments."""
    run, record, cache = folder / "run", folder / "bench", folder / "cache"
    onnx, engine, ranges = (folder / name for name in ("x.onnx", "x.engine", "x.json"))
    to_file, to_folder = "file_held", "folder_held"
    return {
        "train": (to_folder, run, TRAIN, train(made, run, "--max-epochs", 1)),
        "bench": (to_folder, record, BENCH, bench(made, record, cache)),
        "report": (
            *(to_folder, record, BENCH),
            ["report", made.record / "bench.json", "--output", record],
        ),
        "verify": (
            *(to_folder, folder / "worst", EXPORT),
            ["verify", made.fp32, made.fp32, "--limit", 1, "--output", folder / "worst"],
        ),
        "onnx": (to_file, onnx, EXPORT, ["onnx", made.weights, "--size", SIZE, "-o", onnx]),
        "trt": (to_file, engine, EXPORT, ["trt", made.fp32, "-o", engine, "--target", "sm86"]),
        "calibration": (to_file, ranges, EXPORT, ["calibration", made.calibration, "-o", ranges]),
    }


@pytest.mark.parametrize(
    "command", ["train", "bench", "report", "verify", "onnx", "trt", "calibration"]
)
def test_an_output_in_use_is_refused(command: str, originals: Originals, tmp_path: Path) -> None:
    how, target, program, words = commands(originals, tmp_path)[command]
    with holder(how, target) as process:
        before = snapshot(target.parent)
        done = run_python(program, *words, folder=tmp_path)
        after = snapshot(target.parent)
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"error: {str(target)!r} is in use by somebody (process {process} on ")
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) <= {"cache"}


def test_a_run_that_goes_on_is_neither_resumed_nor_begun_again(
    originals: Originals, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = train(originals, folder, "--max-epochs", 400)
    with running(TRAIN, *words, folder=tmp_path) as first:
        wait_for((folder / "last.pth").exists)
        other = train(originals, folder, "--max-epochs", 1, "--seed", 1)
        begun = run_python(TRAIN, *other, folder=tmp_path)
        resume = ("--data-dir", originals.data, "--resume", folder)
        resumed = run_python(TRAIN, *resume, folder=tmp_path)
        first.send_signal(signal.SIGINT)
        _, said = first.communicate(timeout=WAIT_S)
    assert (begun.returncode, resumed.returncode, first.returncode) == (2, 2, 130), said
    assert "holds another run" in begun.stderr
    assert f"is in use by dabnet-train (process {first.pid} on " in resumed.stderr
    assert not (folder / LOCK).exists()
    assert load_checkpoint(folder / "last.pth").training["seed"] == 0


def test_two_trainings_begun_together(originals: Originals, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    both = [train(originals, folder, "--max-epochs", 2, "--seed", seed) for seed in (1, 2)]
    with (
        running(TRAIN, *both[0], folder=tmp_path) as first,
        running(TRAIN, *both[1], folder=tmp_path) as second,
    ):
        said = [process.communicate(timeout=WAIT_S)[1] for process in (first, second)]
    codes = [first.returncode, second.returncode]
    assert sorted(codes) == [0, 2], said
    assert "Traceback" not in "".join(said)
    seed = load_checkpoint(folder / "last.pth").training["seed"]
    assert seed == 1 + codes.index(0)
    assert not (folder / LOCK).exists()


def test_a_killed_run_is_continued(originals: Originals, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = train(originals, folder, "--max-epochs", 400)
    with running(TRAIN, *words, folder=tmp_path) as first:
        wait_for((folder / "last.pth").exists)
        first.kill()
        first.wait()
    assert (folder / LOCK).exists()
    resume = ("--data-dir", originals.data, "--resume", folder, "--cache-dir", tmp_path / "c")
    with running(TRAIN, *resume, folder=tmp_path) as second:
        wait_for(lambda: f"process {second.pid} " in (folder / LOCK).read_text())
        wait_for(lambda: (folder / "log.csv").exists())
        second.send_signal(signal.SIGINT)
        second.wait(WAIT_S)
    assert second.returncode == 130
    assert not (folder / LOCK).exists()


def test_a_folder_that_goes_away_ends_a_run_in_one_line(
    originals: Originals, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = train(originals, folder, "--max-epochs", 400)
    with running(TRAIN, *words, folder=tmp_path) as process:
        wait_for((folder / "last.pth").exists)
        folder.rename(tmp_path / "gone")
        _, said = process.communicate(timeout=WAIT_S)
    assert process.returncode == 2, said
    assert "Traceback" not in said
    assert "nothing can be written in" in said.splitlines()[-1]


@pytest.mark.slow
def test_two_benches_share_a_cache(originals: Originals, tmp_path: Path) -> None:
    outputs = [tmp_path / "b1", tmp_path / "b2"]
    words = [bench(originals, output, tmp_path / "cache") for output in outputs]
    with (
        running(BENCH, *words[0], folder=tmp_path) as first,
        running(BENCH, *words[1], folder=tmp_path) as second,
    ):
        said = [process.communicate(timeout=5 * WAIT_S)[1] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], said
    for output in outputs:
        rows = json.loads((output / "bench.json").read_text())["rows"]
        assert not any(row["reason"] for row in rows)
    assert not [*(tmp_path / "cache").glob(".*")]
