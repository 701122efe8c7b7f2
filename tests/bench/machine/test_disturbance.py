"""Foreign load is measured: another process counts, this one does not."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

import bench.machine.telemetry
from bench.machine.telemetry import CpuWatch

on_linux = pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="needs /proc/stat")


@on_linux
def test_a_busy_process_is_seen() -> None:
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        watch = CpuWatch()
        time.sleep(1.5)
        load = watch.foreign_cores()
    finally:
        burner.kill()
        burner.wait()
    # Whatever else runs also counts, so a busy machine can only add to it.
    assert load is not None
    assert load > 0.3


def test_own_work_is_not_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, own, clock = [100.0, 112.0], [7.0, 15.0], [0.0, 10.0]
    monkeypatch.setattr(bench.machine.telemetry, "busy_seconds", lambda: busy.pop(0))
    monkeypatch.setattr(bench.machine.telemetry, "_own_seconds", lambda: own.pop(0))
    monkeypatch.setattr(bench.machine.telemetry.time, "perf_counter", lambda: clock.pop(0))
    # 12 s of processor time in 10 s, 8 of them ours.
    assert CpuWatch().foreign_cores() == pytest.approx(0.4)


def test_unknown_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.machine.telemetry, "busy_seconds", lambda: None)
    assert CpuWatch().foreign_cores() is None
