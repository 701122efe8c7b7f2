"""Telemetry of a GPU against a double of NVML whose names are the real module's."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

import bench.machine.gpu_telemetry
from bench.machine.gpu_telemetry import THROTTLE_REASONS, GpuMonitor
from bench.machine.telemetry import Monitor
from bench.record import Telemetry
from tests.support.nvml_double import NvmlDouble, Process, real

NO_SUCH_PROCESS = 2**22 + 1  # above the largest number that Linux gives

VOLTA = {
    "nvmlDeviceGetClockInfo": {real.NVML_CLOCK_SM: 1800, real.NVML_CLOCK_MEM: 5000},
    "nvmlDeviceGetPowerUsage": 250_000,
    "nvmlDeviceGetTemperature": {real.NVML_TEMPERATURE_GPU: 71},
    "nvmlDeviceGetCurrentClocksEventReasons": real.nvmlClocksEventReasonGpuIdle,
    "nvmlDeviceGetComputeRunningProcesses": [],
    "nvmlDeviceGetGraphicsRunningProcesses": [],
}


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[NvmlDouble]:
    double = NvmlDouble(dict(VOLTA))
    monkeypatch.setitem(sys.modules, "pynvml", double)  # type: ignore[arg-type]
    monkeypatch.setattr(bench.machine.gpu_telemetry, "PERIOD_S", 0.001)
    yield double
    assert double.open == 0, "NVML was not let go"
    assert not [thread for thread in threading.enumerate() if thread.name == "nvml"]


def turn(monitor: Monitor | None, own: tuple[int, ...] = ()) -> Telemetry:
    """One turn, without the fields of the processor."""
    assert monitor is not None
    monitor.start(own)
    found = monitor.stop(0.0)
    monitor.close()
    return replace(found, foreign_cores=None, cpu_mhz=None)


def reading(*fields: Any) -> Telemetry:
    return Telemetry(None, None, *fields)


def test_energy_is_the_counters_difference(nvml: NvmlDouble) -> None:
    counter = iter([5_000_000, 5_012_500])
    nvml.answers["nvmlDeviceGetTotalEnergyConsumption"] = lambda _: next(counter)
    assert turn(Monitor(0)) == reading(1800, 5000, 250.0, 71, 12.5, 0, ())


def test_energy_before_volta_is_power_times_time(
    nvml: NvmlDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([10.0, 14.0])
    monitor = GpuMonitor.opened(0)
    assert monitor is not None
    monkeypatch.setattr(bench.machine.gpu_telemetry.time, "perf_counter", lambda: next(clock))
    monitor.start(())
    assert monitor.stop().gpu_energy_j == 250.0 * 4.0
    monitor.close()


@pytest.mark.parametrize("lacking", sorted(VOLTA))
def test_what_a_driver_lacks_is_none_alone(nvml: NvmlDouble, lacking: str) -> None:
    del nvml.answers[lacking]
    whole = reading(1800, 5000, 250.0, 71, 250.0, 0, ())
    found = turn(Monitor(0))
    without = {
        "nvmlDeviceGetClockInfo": {"gpu_mhz", "gpu_memory_mhz"},
        "nvmlDeviceGetPowerUsage": {"gpu_power_w", "gpu_energy_j"},
        "nvmlDeviceGetTemperature": {"gpu_temperature_c"},
    }.get(lacking, set())
    for name in Telemetry.__slots__:
        if name == "gpu_energy_j" and name not in without:
            assert found.gpu_energy_j is not None
        else:
            expected = None if name in without else getattr(whole, name)
            assert getattr(found, name) == expected, name


def test_clocks_are_means_over_the_turn(nvml: NvmlDouble) -> None:
    clocks = iter([1000, 2000, *([1500] * 100_000)])
    enough = threading.Event()

    def clock(_: object, kind: int) -> int:
        if kind == real.NVML_CLOCK_MEM:
            return 5000
        value = next(clocks)
        if value == 2000:
            enough.set()
        return value

    nvml.answers["nvmlDeviceGetClockInfo"] = clock
    monitor = GpuMonitor.opened(0)
    assert monitor is not None
    monitor.start(())
    assert enough.wait(10)
    assert monitor.stop().gpu_mhz == 1500
    monitor.close()


@pytest.mark.parametrize(
    "function",
    ["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"],
)
def test_throttle_reasons(nvml: NvmlDouble, function: str) -> None:
    """Those that are held against the user's interest; by their old name before driver 535."""
    del nvml.answers["nvmlDeviceGetCurrentClocksEventReasons"]
    nvml.answers[function] = real.nvmlClocksEventReasonAll
    assert turn(Monitor(0)).throttled == THROTTLE_REASONS
    chosen = (
        real.nvmlClocksEventReasonGpuIdle
        | real.nvmlClocksEventReasonApplicationsClocksSetting
        | real.nvmlClocksEventReasonDisplayClockSetting
    )
    nvml.answers[function] = chosen
    assert turn(Monitor(0)).throttled == ()
    nvml.answers[function] = chosen | real.nvmlClocksEventReasonHwThermalSlowdown
    assert turn(Monitor(0)).throttled == ("HwThermalSlowdown",)


def test_processes_of_others(nvml: NvmlDouble) -> None:
    me, other = os.getpid(), os.getppid()
    nvml.answers["nvmlDeviceGetComputeRunningProcesses"] = [Process(me, 5), Process(other, 7)]
    nvml.answers["nvmlDeviceGetGraphicsRunningProcesses"] = [Process(other, 7)]
    assert turn(Monitor(0)).gpu_processes == 1
    assert turn(Monitor(0), (other,)).gpu_processes == 0
    nvml.answers["nvmlDeviceGetComputeRunningProcesses"] = [Process(NO_SUCH_PROCESS, 5)]
    assert turn(Monitor(0)).gpu_processes is None  # numbers of another namespace


def test_memory_of_a_process(nvml: NvmlDouble) -> None:
    monitor = Monitor(0)
    nvml.answers["nvmlDeviceGetComputeRunningProcesses"] = [Process(1, 500), Process(2, None)]
    nvml.answers["nvmlDeviceGetGraphicsRunningProcesses"] = [Process(1, 300)]
    assert [monitor.device_bytes(pid) for pid in (1, 2, 3)] == [500, None, None]
    del nvml.answers["nvmlDeviceGetComputeRunningProcesses"]
    assert monitor.device_bytes(1) == 300
    monitor.close()
    assert monitor.device_bytes(1) is None


def test_no_package_no_driver_no_such_gpu(
    nvml: NvmlDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert turn(Monitor(7)) == Telemetry()
    nvml.has_driver = False
    assert turn(Monitor(0)) == Telemetry()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert turn(Monitor(0)) == Telemetry()


def test_without_a_driver_the_real_package_says_nothing_either() -> None:
    try:
        real.nvmlInit()
    except real.NVMLError:
        assert turn(Monitor(0)) == Telemetry()
    else:
        real.nvmlShutdown()
        pytest.skip("there is a driver")
