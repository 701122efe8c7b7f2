"""Steps that crash, hang, leave children, or are interrupted: none stops the others."""

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

import pytest

from tests.support import ROOT
from tests.support.processes import environment

# A check of the steps that it reads, as (name, program, seconds, packages, after).
PROGRAM = f"""
import json, sys
from pathlib import Path

sys.path.insert(0, {str(ROOT / "tools")!r})
from gpu_check import Check, checked
from step_process import Step

work, minutes = Path(sys.argv[1]), float(sys.argv[2])
steps = [
    Step(name, (sys.executable, "-c", program), seconds, tuple(packages), after)
    for name, program, seconds, packages, after in json.load(sys.stdin)
]
check = Check("cuda:0", (32, 64), minutes, "now", {{"torch": "2"}})
sys.exit(checked(check, steps, work))
"""
SLEEP = "import time; time.sleep(600)"
# A process that starts another one and tells its number in a file.
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}])
open("child", "w").write(str(child.pid))
"""
TELLS = """
import os
from pathlib import Path
def tell(text): Path(os.environ["DABNET_STEP_OUTCOME"]).write_text(text)
tell('{"figures": {"half_ms": 1.5}}')
"""


class Run:
    """One run of ``PROGRAM`` in ``folder``."""

    def __init__(self, folder: Path, steps: list[tuple[Any, ...]], minutes: float = 5) -> None:
        self.folder, self.work = folder, folder / "work"
        full = [[*step, *((20, (), "")[len(step) - 2 :])] for step in steps]
        self.process = subprocess.Popen(
            [sys.executable, "-B", "-c", PROGRAM, str(self.work), str(minutes)],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin
        self.process.stdin.write(json.dumps(full))
        self.process.stdin.close()
        self.process.stdin = None

    def end(self, code: int) -> dict[str, Any]:
        """Wait for the end; return the steps of the record by name."""
        self.said, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == code, errors
        self.record = json.loads((self.folder / "gpu-check.json").read_text(encoding="utf-8"))
        return {step["name"]: step for step in self.record["steps"]}

    @property
    def log(self) -> str:
        return (self.folder / "gpu-check.log").read_text(encoding="utf-8")

    def child(self) -> int:
        """Number of the process that ``PARENT`` started, once it has."""
        until = time.monotonic() + 30
        while not (file := self.work / "child").exists() or not file.read_text():
            assert time.monotonic() < until
            time.sleep(0.05)
        return int(file.read_text())


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for is over."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def is_gone(pid: int) -> bool:
    until = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not is_alive(pid)


@pytest.fixture(autouse=True)
def on_linux() -> Iterator[None]:
    if not Path("/proc/self/stat").is_file():
        pytest.skip("needs /proc")
    yield


def test_no_step_stops_the_others(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        [
            ("plain", "print('said')"),
            ("told", TELLS + 'tell(\'{"verdict": "not accepted", "reason": "a card"}\')'),
            ("crash", TELLS + "import signal; os.kill(os.getpid(), signal.SIGSEGV)"),
            ("killed", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
            ("raises", "print('before')\nraise RuntimeError('no kernel image')"),
            ("silent", "import os; os._exit(3)"),
            ("hangs", f"{TELLS}\n{PARENT}\n{SLEEP}", 3),
            ("absent", "", 20, ["no_such_package"]),
            ("as-absent", "raise SystemExit(1)", 20, [], "absent"),
            ("as-told", "raise SystemExit(1)", 20, [], "told"),
            ("nan", TELLS + 'tell(\'{"verdict": "ok", "figures": {"x": NaN}}\')'),
            ("last", "import json, os; print(json.dumps(sorted(os.environ)))"),
        ],
    )
    hanging = run.child()
    steps = run.end(1)
    assert {name: (step["verdict"], step["reason"]) for name, step in steps.items()} == {
        "plain": ("ok", ""),
        "told": ("not accepted", "a card"),
        "crash": ("failed", "ended by SIGSEGV"),
        "killed": ("failed", "ended by SIGKILL (out of memory?)"),
        "raises": ("failed", "exit code 1: RuntimeError: no kernel image"),
        "silent": ("failed", "exit code 3: it said nothing"),
        "hangs": ("timed out", "it did not end within 3 s"),
        "absent": (
            "not installed",
            "the package 'no_such_package' is not installed; install it with: pip install '.[gpu]'",
        ),
        "as-absent": ("not installed", steps["absent"]["reason"]),
        "as-told": ("not accepted", "a card"),
        "nan": ("failed", steps["nan"]["reason"]),
        "last": ("ok", ""),
    }
    assert "holds no valid step's outcome: not JSON" in steps["nan"]["reason"]
    for name in ("crash", "hangs"):
        assert steps[name]["figures"] == {"half_ms": 1.5}  # what was noted before
    assert is_gone(hanging)
    assert "Fatal Python error: Aborted" in run.log  # where the step hung
    assert "Fatal Python error: Segmentation fault" in run.log
    assert run.record["complete"]
    assert run.record["format"] == 1
    places = json.loads(run.log.splitlines()[-1])
    assert {"CUDA_CACHE_PATH", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "HOME"} <= {*places}
    for text in ("hangs", "timed out", "half_ms 1.5", "5 failed"):
        assert text in run.said


def test_exit_code_0_and_nothing_left_behind(tmp_path: Path) -> None:
    for name in ("gpu-check.json", "bench.json"):  # of a run before
        (tmp_path / name).write_text("old")
    run = Run(tmp_path, [("leaves-a-child", PARENT), ("absent", "", 20, ["no_such_package"])])
    child = run.child()
    assert {step["verdict"] for step in run.end(0).values()} == {"ok", "not installed"}
    assert is_gone(child)
    assert not (tmp_path / "bench.json").exists()


def test_no_time_is_left(tmp_path: Path) -> None:
    run = Run(tmp_path, [("long", TELLS + SLEEP, 60), ("next", "")], minutes=0.08)
    steps = run.end(1)
    assert steps["long"]["verdict"] == steps["next"]["verdict"] == "no time left"
    assert steps["long"]["reason"] == "5 s of the 0.08 minutes were left for it"
    assert steps["long"]["figures"] == {"half_ms": 1.5}
    assert steps["next"]["reason"] == "nothing was left of the 0.08 minutes"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_step_and_writes_what_there_is(tmp_path: Path, number: int) -> None:
    run = Run(tmp_path, [("first", ""), ("second", f"{PARENT}\n{SLEEP}", 60), ("third", "")])
    child = run.child()
    assert is_alive(child)
    os.kill(run.process.pid, number)
    steps = run.end(130)
    assert {name: step["verdict"] for name, step in steps.items()} == {
        "first": "ok",
        "second": "interrupted",
    }
    assert not run.record["complete"]
    assert is_gone(child)
    assert "interrupted" in run.said
