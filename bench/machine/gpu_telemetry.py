"""A GPU while a turn runs, as NVML describes it.

NVML comes with the driver, its Python names with the package nvidia-ml-py
(https://docs.nvidia.com/deploy/nvml-api/). Without either, and for everything that a card or a
driver does not support, a field is None: telemetry never stops a measurement.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import time
from collections.abc import Sequence
from statistics import fmean
from threading import Event, Thread
from typing import Any

from bench.record import Telemetry

PERIOD_S = 0.1

# Reasons that lower the clocks against the user's interest; not idling, nor clocks that someone
# chose (application clocks, display clocks).
THROTTLE_REASONS = (
    "SwPowerCap",
    "HwSlowdown",
    "SyncBoost",
    "SwThermalSlowdown",
    "HwThermalSlowdown",
    "HwPowerBrakeSlowdown",
)


class GpuMonitor:
    """One GPU, by its index in NVML."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._own: frozenset[int] = frozenset()
        self._seen: set[int] | None = None
        self._samples: list[tuple[float | None, ...]] = []
        self._reasons = 0
        self._energy_mj: float | None = None
        self._start = 0.0
        self._over = Event()
        self._thread: Thread | None = None

    @classmethod
    def opened(cls, index: int) -> GpuMonitor | None:
        """The monitor; None without package, driver or such a GPU."""
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return None
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlInit()
            try:
                return cls(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
            except nvml.NVMLError:
                nvml.nvmlShutdown()
        return None

    def start(self, own_pids: Sequence[int]) -> None:
        """Begin to sample, about ten times a second."""
        self._end()
        self._own, self._seen = frozenset(own_pids), self._pids()
        self._samples, self._reasons = [], 0
        self._over.clear()
        self._energy_mj = self._asked("nvmlDeviceGetTotalEnergyConsumption")
        self._start = time.perf_counter()
        self._thread = Thread(target=self._sample_until_over, daemon=True, name="nvml")
        self._thread.start()

    def stop(self) -> Telemetry:
        """End the turn; return the fields of the GPU: means over its samples, and its energy."""
        seconds = time.perf_counter() - self._start
        energy_mj = self._asked("nvmlDeviceGetTotalEnergyConsumption")
        self._end()
        if not self._samples:
            self._sample()
        mhz, memory_mhz, power_mw, temperature = map(_mean, zip(*self._samples, strict=True))
        power = None if power_mw is None else power_mw / 1e3
        if energy_mj is not None and self._energy_mj is not None:  # from Volta on
            energy: float | None = (energy_mj - self._energy_mj) / 1e3
        else:
            energy = None if power is None else power * seconds
        throttled = tuple(
            name
            for name in THROTTLE_REASONS
            if self._reasons & getattr(self._nvml, f"nvmlClocksEventReason{name}")
        )
        gpu = (mhz, memory_mhz, power, temperature, energy, self._foreign(), throttled)
        return Telemetry(None, None, *gpu)

    def device_bytes(self, pid: int) -> int | None:
        """Memory that a process holds; None if NVML does not list it or does not say."""
        known = (process for process in self._processes() or () if process.pid == pid)
        used = [process.usedGpuMemory for process in known]
        return max((int(count) for count in used if count is not None), default=None)

    def close(self) -> None:
        self._end()
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def _end(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _sample_until_over(self) -> None:
        # Not at once: the turn's first call is still on its way, and the clocks may idle.
        while not self._over.wait(PERIOD_S):
            self._sample()

    def _sample(self) -> None:
        nvml, ask = self._nvml, self._asked
        kinds = (nvml.NVML_CLOCK_SM, nvml.NVML_CLOCK_MEM)
        clocks = [ask("nvmlDeviceGetClockInfo", kind) for kind in kinds]
        temperature = ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)
        self._samples.append((*clocks, ask("nvmlDeviceGetPowerUsage"), temperature))
        reasons = ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:  # its name before driver 535
            reasons = ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        self._reasons |= reasons or 0

    def _foreign(self) -> int | None:
        """Processes of others; None in a container whose NVML returns the host's numbers."""
        now = self._pids()
        if now is None or self._seen is None:
            return None
        others = (now | self._seen) - self._own
        return len(others) if all(map(_exists, now - self._own)) else None

    def _pids(self) -> set[int] | None:
        processes = self._processes()
        return None if processes is None else {process.pid for process in processes}

    def _processes(self) -> list[Any] | None:
        """All that hold memory; None if neither list can be had."""
        kinds = ("Compute", "Graphics")
        lists = [self._asked(f"nvmlDeviceGet{kind}RunningProcesses") for kind in kinds]
        known = [processes for processes in lists if processes is not None]
        return [*itertools.chain(*known)] if known else None

    def _asked(self, function: str, *arguments: Any) -> Any:
        """The answer of NVML; None if card or driver lacks it."""
        try:
            return getattr(self._nvml, function)(self._handle, *arguments)
        except self._nvml.NVMLError:
            return None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _exists(pid: int) -> bool:
    """Whether there is a process of that number here."""
    if os.name != "posix":  # where the signal 0 is not a mere question
        return True
    try:
        os.kill(pid, 0)
    except OSError as error:  # PermissionError: another user's
        return not isinstance(error, ProcessLookupError)
    return True
