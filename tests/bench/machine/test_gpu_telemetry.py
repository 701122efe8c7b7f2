"""Telemetry of a GPU against a double of NVML whose names are the real module's."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

import bench.machine.gpu_telemetry
from bench.machine.gpu_telemetry import CLOCK_REASONS, THROTTLE_REASONS, GpuMonitor
from bench.machine.telemetry import Monitor, marks
from bench.record import Telemetry
from tests.support.nvml_double import NvmlDouble, Process, Utilisation, real

PCI = "0000:65:00.0"  # as CUDA gives it
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


READING = Telemetry(
    gpu_mhz=1800,
    gpu_memory_mhz=5000,
    gpu_power_w=250.0,
    gpu_temperature_c=71,
    gpu_processes=0,
    clock_reasons=("GpuIdle",),
)


def test_energy_is_the_counters_difference(nvml: NvmlDouble) -> None:
    counter = iter([5_000_000, 5_012_500])
    nvml.answers["nvmlDeviceGetTotalEnergyConsumption"] = lambda _: next(counter)
    assert turn(Monitor(PCI)) == replace(READING, gpu_energy_j=12.5)


def test_energy_before_volta_is_power_times_time(
    nvml: NvmlDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([10.0, 14.0])
    monitor = GpuMonitor.opened(PCI)
    assert monitor is not None
    monkeypatch.setattr(bench.machine.gpu_telemetry.time, "perf_counter", lambda: next(clock))
    monitor.start(())
    assert monitor.stop().gpu_energy_j == 250.0 * 4.0
    monitor.close()


@pytest.mark.parametrize("lacking", sorted(VOLTA))
def test_what_a_driver_lacks_is_none_alone(nvml: NvmlDouble, lacking: str) -> None:
    del nvml.answers[lacking]
    found = turn(Monitor(PCI))
    without = {
        "nvmlDeviceGetClockInfo": {"gpu_mhz", "gpu_memory_mhz"},
        "nvmlDeviceGetPowerUsage": {"gpu_power_w", "gpu_energy_j"},
        "nvmlDeviceGetTemperature": {"gpu_temperature_c"},
        "nvmlDeviceGetCurrentClocksEventReasons": {"clock_reasons"},
    }.get(lacking, set())
    for name in Telemetry.__slots__:
        if name == "gpu_energy_j" and name not in without:
            assert found.gpu_energy_j is not None
        else:
            expected = getattr(Telemetry() if name in without else READING, name)
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
    monitor = GpuMonitor.opened(PCI)
    assert monitor is not None
    monitor.start(())
    assert enough.wait(10)
    assert monitor.stop().gpu_mhz == 1500
    monitor.close()


@pytest.mark.parametrize(
    "function",
    ["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"],
)
def test_clock_reasons(nvml: NvmlDouble, function: str) -> None:
    """All are kept and slowdowns throttle; by their old name before driver 535."""
    del nvml.answers["nvmlDeviceGetCurrentClocksEventReasons"]

    def reasons(mask: int) -> Telemetry:
        nvml.answers[function] = mask
        return turn(Monitor(PCI))

    for name in CLOCK_REASONS:
        mask = getattr(real, f"nvmlClocksThrottleReason{name}", None)
        assert mask is not None or name in ("BoardLimit", "Reliability")
        if mask is not None:
            found = reasons(mask)
            assert found.clock_reasons == (name,)
            assert found.throttled == ((name,) if name in THROTTLE_REASONS else ())
    boosting = reasons(real.nvmlClocksEventReasonSwPowerCap)
    assert marks(boosting, 1.0) == ()
    hot = reasons(
        real.nvmlClocksEventReasonSwPowerCap | real.nvmlClocksEventReasonHwThermalSlowdown
    )
    assert hot.clock_reasons == ("SwPowerCap", "HwThermalSlowdown")
    assert hot.throttled == ("HwThermalSlowdown",)
    assert marks(hot, 1.0) == ("throttled",)
    assert reasons(1 << 40).clock_reasons == ("bit 40",)


def test_a_busy_process_of_others_disturbs_a_turn(nvml: NvmlDouble) -> None:
    me, worker, other = os.getpid(), 2, 3
    asked: list[int] = []

    def share(*samples: Utilisation) -> float | None:
        def answer(_: object, since_us: int) -> list[Utilisation]:
            asked.append(since_us)
            return list(samples)

        nvml.answers["nvmlDeviceGetProcessUtilization"] = answer
        return turn(Monitor(PCI), (worker,)).gpu_foreign_share

    before_us = time.time_ns() // 1000
    assert share(Utilisation(worker, 90)) == 0.0
    assert before_us <= asked[0] <= time.time_ns() // 1000  # samples of this turn alone
    assert share(Utilisation(worker, 60), Utilisation(other, 10), Utilisation(other, 30)) == 0.2
    assert share(Utilisation(me, 60), Utilisation(3, 80), Utilisation(4, 90)) == 1.0
    assert share(Utilisation(worker, 60), Utilisation(other, 37100)) == 0.0  # garbage
    # Where none of ours is listed, the numbers are the host's of a container.
    assert share(Utilisation(other, 90)) is None
    assert share() is None
    nvml.answers["nvmlDeviceGetProcessUtilization"] = real.NVMLError(real.NVML_ERROR_NOT_FOUND)
    assert turn(Monitor(PCI), (worker,)).gpu_foreign_share is None
    assert marks(Telemetry(gpu_foreign_share=0.05), 1.0) == ("disturbed",)
    assert marks(Telemetry(gpu_foreign_share=0.04), 1.0) == ()


def test_settings_of_the_card(nvml: NvmlDouble) -> None:
    graphics, memory = real.NVML_CLOCK_GRAPHICS, real.NVML_CLOCK_MEM
    nvml.answers = {
        "nvmlSystemGetDriverVersion": "580.95.05",
        "nvmlDeviceGetApplicationsClock": {graphics: 1410, memory: 1593},
        "nvmlDeviceGetDefaultApplicationsClock": {graphics: 1275, memory: 1593},
        "nvmlDeviceGetPowerManagementLimit": 350_000,
        "nvmlDeviceGetPowerManagementDefaultLimit": 350_000,
        "nvmlDeviceGetPersistenceMode": real.NVML_FEATURE_DISABLED,
        "nvmlDeviceGetEccMode": [real.NVML_FEATURE_ENABLED, real.NVML_FEATURE_DISABLED],
        "nvmlDeviceGetMigMode": [real.NVML_DEVICE_MIG_DISABLE, real.NVML_DEVICE_MIG_ENABLE],
    }
    monitor = GpuMonitor.opened(PCI)
    assert monitor is not None
    assert monitor.settings() == (
        "driver 580.95.05, application clocks 1410/1593 MHz (default 1275/1593 MHz),"
        " power limit 350 W (default), persistence mode off, ECC on, MIG off"
    )
    # A GeForce, and a driver from which application clocks were removed.
    for name in ("Applications", "DefaultApplications"):
        del nvml.answers[f"nvmlDeviceGet{name}Clock"]
    for name in ("Ecc", "Mig"):
        del nvml.answers[f"nvmlDeviceGet{name}Mode"]
    del nvml.answers["nvmlDeviceGetPowerManagementDefaultLimit"]
    nvml.answers["nvmlSystemGetDriverVersion"] = b"470.1"  # an old version of the package
    assert monitor.settings() == "driver 470.1, power limit 350 W, persistence mode off"
    nvml.answers = {}
    assert monitor.settings() == ""
    monitor.close()


def test_processes_of_others(nvml: NvmlDouble) -> None:
    me, other = os.getpid(), os.getppid()
    nvml.answers["nvmlDeviceGetComputeRunningProcesses"] = [Process(me, 5), Process(other, 7)]
    nvml.answers["nvmlDeviceGetGraphicsRunningProcesses"] = [Process(other, 7)]
    assert turn(Monitor(PCI)).gpu_processes == 1
    assert turn(Monitor(PCI), (other,)).gpu_processes == 0
    nvml.answers["nvmlDeviceGetComputeRunningProcesses"] = [Process(NO_SUCH_PROCESS, 5)]
    assert turn(Monitor(PCI)).gpu_processes is None  # numbers of another namespace


def test_memory_of_a_process(nvml: NvmlDouble) -> None:
    monitor = Monitor(PCI)
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
    assert turn(Monitor("0000:17:00.0")) == Telemetry()
    nvml.has_driver = False
    assert turn(Monitor(PCI)) == Telemetry()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert turn(Monitor(PCI)) == Telemetry()


def test_without_a_driver_the_real_package_says_nothing_either() -> None:
    try:
        real.nvmlInit()
    except real.NVMLError:
        assert turn(Monitor(PCI)) == Telemetry()
    else:
        real.nvmlShutdown()
        pytest.skip("there is a driver")
