"""A GPU as NVML describes it: its settings, and what it does while a turn runs.

NVML comes with the driver, its Python names with the package nvidia-ml-py
(https://docs.nvidia.com/deploy/nvml-api/). Without either, and for everything that a card, a
driver or the package lacks, a field is None: telemetry never stops a measurement.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import fmean
from threading import Event, Thread
from typing import Any

from bench.record import Telemetry

PERIOD_S = 0.1

# nvmlDeviceGetCurrentClocksEventReasons, by number of the bit ("NvmlClocksEventReasons" of NVML's
# reference). The package names the last two only in its newest versions.
CLOCK_REASONS = (
    "GpuIdle",
    "ApplicationsClocksSetting",
    "SwPowerCap",
    "HwSlowdown",
    "SyncBoost",
    "SwThermalSlowdown",
    "HwThermalSlowdown",
    "HwPowerBrakeSlowdown",
    "DisplayClockSetting",
    "BoardLimit",
    "Reliability",
)
# Those that mark a turn. Not SwPowerCap: a card that boosts is meant to run at its power limit.
THROTTLE_REASONS = frozenset(
    {
        "HwSlowdown",
        "SyncBoost",
        "SwThermalSlowdown",
        "HwThermalSlowdown",
        "HwPowerBrakeSlowdown",
    }
)


class GpuMonitor:
    """One GPU."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._own: frozenset[int] = frozenset()
        self._seen: set[int] | None = None
        self._samples: list[tuple[float | None, ...]] = []
        self._reasons = 0
        self._energy_mj: float | None = None
        self._start, self._start_us = 0.0, 0
        self._over = Event()
        self._thread: Thread | None = None

    @classmethod
    def opened(cls, pci_bus_id: str) -> GpuMonitor | None:
        """The monitor of a GPU; None without package, driver or such a GPU.

        NVML ignores ``CUDA_VISIBLE_DEVICES`` and has an order of its own, so its index is of no
        use; it reads the hexadecimal numbers of a PCI address with or without leading zeros.

        Args:
            pci_bus_id: as CUDA gives it, such as ``0000:65:00.0``.
        """
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return None
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlInit()
            try:  # bytes, which every version of the package takes
                return cls(nvml, nvml.nvmlDeviceGetHandleByPciBusId(pci_bus_id.encode()))
            except nvml.NVMLError:
                nvml.nvmlShutdown()
        return None

    def settings(self) -> str:
        """The driver, and what its owner set on the card, in words; "" if nothing is known.

        NVML does not tell locked clocks; the clocks of each turn show them.
        """
        return ", ".join(self._settings())

    def start(self, own_pids: Sequence[int]) -> None:
        """Begin to sample, about ten times a second."""
        self._end()
        self._own, self._seen = frozenset(own_pids), self._pids()
        self._samples, self._reasons = [], 0
        self._over.clear()
        self._energy_mj = self._asked("nvmlDeviceGetTotalEnergyConsumption")
        self._start, self._start_us = time.perf_counter(), time.time_ns() // 1000
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
            spent = (energy_mj - self._energy_mj) / 1e3
            energy: float | None = spent if spent >= 0 else None  # the driver was loaded again
        else:
            energy = None if power is None else power * seconds
        reasons = _names(self._reasons)
        return Telemetry(
            gpu_mhz=mhz,
            gpu_memory_mhz=memory_mhz,
            gpu_power_w=power,
            gpu_temperature_c=temperature,
            gpu_energy_j=energy,
            gpu_processes=self._foreign(),
            gpu_foreign_share=self._foreign_share(),
            clock_reasons=reasons,
            throttled=tuple(name for name in reasons if name in THROTTLE_REASONS),
        )

    def device_bytes(self, pid: int) -> int | None:
        """Memory that a process holds; None if NVML does not list it or does not say."""
        known = (process for process in self._processes() or () if process.pid == pid)
        used = [process.usedGpuMemory for process in known]
        return max((int(count) for count in used if count is not None), default=None)

    def close(self) -> None:
        self._end()
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def _settings(self) -> Iterator[str]:
        if driver := self._call("nvmlSystemGetDriverVersion"):
            yield f"driver {driver.decode() if isinstance(driver, bytes) else driver}"
        clocks, watts = self._clocks, self._watts
        for name, unit, value, default in (
            (
                "application clocks",  # deprecated in CUDA 13, without a successor
                "MHz",
                clocks("nvmlDeviceGetApplicationsClock"),
                clocks("nvmlDeviceGetDefaultApplicationsClock"),
            ),
            (
                "power limit",
                "W",
                watts("nvmlDeviceGetPowerManagementLimit"),
                watts("nvmlDeviceGetPowerManagementDefaultLimit"),
            ),
        ):
            if value:
                known = {None: "", value: " (default)"}
                yield f"{name} {value} {unit}{known.get(default, f' (default {default} {unit})')}"
        modes = {"Persistence": "persistence mode", "Ecc": "ECC", "Mig": "MIG"}
        for key, name in modes.items():
            if (mode := self._asked(f"nvmlDeviceGet{key}Mode")) is not None:
                now = mode[0] if isinstance(mode, list) else mode  # [now, after a reset]
                yield f"{name} {'on' if now else 'off'}"

    def _clocks(self, function: str) -> str | None:
        """Clocks of cores and memory in MHz."""
        kinds = (self._nvml.NVML_CLOCK_GRAPHICS, self._nvml.NVML_CLOCK_MEM)
        clocks = [self._asked(function, kind) for kind in kinds]
        return None if None in clocks else "/".join(map(str, clocks))

    def _watts(self, function: str) -> str | None:
        milliwatts = self._asked(function)
        return None if milliwatts is None else f"{milliwatts / 1e3:g}"

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

    def _foreign_share(self) -> float | None:
        """Share of the turn in which kernels of others ran; None if unknown.

        NVML sums up each process that ran kernels once every 1/6 to 1 s, which depends on the card.
        A turn in which no such period ended, an older card and MIG give nothing. Nor can others be
        told from ours where none of ours is listed: a container sees the host's numbers.
        """
        samples = self._asked("nvmlDeviceGetProcessUtilization", self._start_us) or ()
        percent = defaultdict[int, list[int]](list)
        for sample in samples:
            if sample.smUtil <= 100:  # drivers have returned garbage (nvtop, issue 110)
                percent[sample.pid].append(sample.smUtil)
        if self._own.isdisjoint(percent):
            return None
        foreign = (fmean(values) for pid, values in percent.items() if pid not in self._own)
        return min(1.0, sum(foreign) / 100)

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
        """The answer of NVML about the GPU; None if card, driver or package lacks it."""
        return self._call(function, self._handle, *arguments)

    def _call(self, function: str, *arguments: Any) -> Any:
        if not hasattr(self._nvml, function):  # deprecated ones go in CUDA 14
            return None
        try:
            return getattr(self._nvml, function)(*arguments)
        except self._nvml.NVMLError:
            return None


def _names(reasons: int) -> tuple[str, ...]:
    """The reasons of a bit mask, those that are not known here by the number of their bit."""
    bits = (bit for bit in range(reasons.bit_length()) if reasons >> bit & 1)
    return tuple(CLOCK_REASONS[b] if b < len(CLOCK_REASONS) else f"bit {b}" for b in bits)


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
