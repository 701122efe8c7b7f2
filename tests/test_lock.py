"""One run at a time: real processes that hold the lock, wait for it, and die with it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dabnet.errors import InputError
from dabnet.lock import file_held, folder_held

HOLD = """
import sys
from pathlib import Path
from dabnet.lock import folder_held

with folder_held(Path(sys.argv[1]), "dabnet-train"):
    print("held", flush=True)
    sys.stdin.readline()
"""
COUNT = """
import sys, time
from pathlib import Path
from dabnet.lock import file_held

file = Path(sys.argv[1])
for _ in range(5):
    with file_held(file, "counter", lambda line: None):
        number = int(file.read_text())
        time.sleep(0.01)
        file.write_text(str(number + 1))
"""
Holder = Callable[[Path], "subprocess.Popen[str]"]


@pytest.fixture
def holder() -> Iterator[Holder]:
    started: list[subprocess.Popen[str]] = []

    def hold(folder: Path) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], text=True, **pipes)  # type: ignore[call-overload]
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def test_the_second_is_told_who_holds_it(tmp_path: Path, holder: Holder) -> None:
    folder = tmp_path / "run"
    first = holder(folder)
    said = rf"run' is in use by dabnet-train \(process {first.pid} on \S+, since 20\d\d-[^)]*\); "
    with pytest.raises(InputError, match=said + "expected one run at a time; wait until it ends"):
        folder_held(folder, "dabnet-train").__enter__()
    first.communicate("\n")
    with folder_held(folder, "dabnet-train"):
        assert [path.name for path in folder.iterdir()] == [".dabnet.lock"]
    assert not [*folder.iterdir()]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_of_a_dead_process_is_taken_over(
    tmp_path: Path, holder: Holder, end: signal.Signals
) -> None:
    first = holder(tmp_path)
    first.send_signal(end)
    first.wait()
    assert f"process {first.pid} " in (tmp_path / ".dabnet.lock").read_text()
    with folder_held(tmp_path, "dabnet-bench"):
        content = (tmp_path / ".dabnet.lock").read_text()
    assert re.match(rf"dabnet-bench \(process {os.getpid()} on ", content)
    assert content.count("\n") == 1
    assert not [*tmp_path.iterdir()]


def test_a_lock_may_be_waited_for(tmp_path: Path, holder: Holder) -> None:
    (tmp_path / ".x.onnx.dabnet.lock").write_text("left over")
    with file_held(tmp_path / "x.onnx", "dabnet-bench", pytest.fail):
        pass
    program = HOLD.replace("folder_held", "file_held")
    words = [sys.executable, "-c", program, str(tmp_path / "x.onnx")]
    with subprocess.Popen(words, text=True, stdin=-1, stdout=-1) as first:
        assert first.stdout
        assert first.stdin
        assert first.stdout.readline() == "held\n"
        lines = []

        def told(line: str) -> None:
            lines.append(line)
            assert first.stdin
            first.stdin.write("\n")
            first.stdin.flush()

        with file_held(tmp_path / "x.onnx", "dabnet-bench", told):
            assert first.wait() == 0
    assert len(lines) == 1
    assert re.fullmatch(r"waiting for dabnet-train \(process .*\), which writes x.onnx", lines[0])


def test_no_two_are_within_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "count"
    file.write_text("0")
    words = [sys.executable, "-c", COUNT, str(file)]
    running = [subprocess.Popen(words) for _ in range(6)]
    assert [process.wait() for process in running] == [0] * 6
    assert file.read_text() == "30"
    assert [*tmp_path.iterdir()] == [file]


def test_a_process_may_take_its_own_lock_again(tmp_path: Path) -> None:
    with folder_held(tmp_path, "dabnet-train"):
        with folder_held(tmp_path / "." / "", "dabnet-train"):
            pass
        assert (tmp_path / ".dabnet.lock").exists()
        words = [sys.executable, "-c", HOLD, str(tmp_path)]
        second = subprocess.run(words, capture_output=True, text=True, check=False)
        assert "InputError" in second.stderr  # the outer block still holds it
    assert not (tmp_path / ".dabnet.lock").exists()


def test_a_folder_that_is_removed_meanwhile(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with folder_held(folder, "dabnet-train"):
        (folder / ".dabnet.lock").unlink()
        folder.rmdir()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda path: path.symlink_to("precious"), "cannot be opened"),
        (os.mkfifo, "is no plain file"),
        (Path.mkdir, "cannot be opened"),
    ],
)
def test_what_is_no_lock_is_left(
    tmp_path: Path, make: Callable[[Path], object], fault: str
) -> None:
    (tmp_path / "precious").write_text("kept")
    make(tmp_path / ".dabnet.lock")
    started = time.monotonic()
    with pytest.raises(InputError, match=fault):
        folder_held(tmp_path, "dabnet-train").__enter__()
    assert time.monotonic() - started < 30
    assert (tmp_path / "precious").read_text() == "kept"
    assert os.path.lexists(tmp_path / ".dabnet.lock")


def test_long_names_have_locks(tmp_path: Path) -> None:
    file = tmp_path / ("n" * 250 + ".onnx")
    with file_held(file, "dabnet-export"):
        (lock,) = tmp_path.iterdir()
        assert lock.name.endswith(".dabnet.lock")
