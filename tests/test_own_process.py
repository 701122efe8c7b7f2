"""A command in a process of its own: how it ends, and what it passes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

START = """
import os, signal, sys, time
from dabnet.own_process import continue_in_child

continue_in_child()
"""


def ended(program: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", START + program]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


def test_a_crash_is_one_line() -> None:
    done = ended("print('began', flush=True); os.kill(os.getpid(), signal.SIGSEGV)")
    assert (done.returncode, done.stdout) == (2, "began\n")
    assert done.stderr.startswith("error: a library crashed on this input (SIGSEGV); expected")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_it_ends_as_its_child(code: int) -> None:
    done = ended(f"print('all'); sys.exit({code})")
    assert (done.returncode, done.stdout, done.stderr) == (code, "all\n", "")


def test_a_kill_is_a_kill() -> None:
    assert ended("os.kill(os.getpid(), signal.SIGKILL)").returncode == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on(tmp_path: Path, number: signal.Signals) -> None:
    program = (
        START
        + f"""
def told(number, frame):
    open({str(tmp_path / "told")!r}, "w").write(str(number))
    sys.exit(130)

signal.signal({int(number)}, told)
print("ready", flush=True)
time.sleep(60)
"""
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.wait(30) == 130
    assert (tmp_path / "told").read_text() == str(int(number))


def test_the_child_ends_with_its_parent() -> None:
    program = START + "print(os.getpid(), flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    child = int(process.stdout.readline())
    assert child != process.pid
    process.kill()
    process.wait(30)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("it goes on alone")
