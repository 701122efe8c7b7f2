"""Foreign load of a whole measurement: other processes count, ours do not."""

import pytest

import bench.machine.telemetry
from bench.machine.telemetry import CpuWatch


def test_own_work_is_not_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry = bench.machine.telemetry
    busy, children, own = iter([100.0, 100.0, 112.0]), iter([2.0, 5.0]), iter([7.0, 12.0])
    clock = iter([0.0, 10.0])
    monkeypatch.setattr(telemetry, "busy_seconds", lambda _: next(busy))
    monkeypatch.setattr(telemetry, "_children_seconds", lambda: next(children))
    monkeypatch.setattr(telemetry.time, "process_time", lambda: next(own))
    monkeypatch.setattr(telemetry.time, "perf_counter", lambda: next(clock))
    # 12 s of processor time in 10 s, 5 of them ours and 3 of processes that we waited for.
    assert CpuWatch().foreign_cores() == pytest.approx(0.4)


def test_unknown_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.machine.telemetry, "busy_seconds", lambda _: None)
    assert CpuWatch().foreign_cores() is None
