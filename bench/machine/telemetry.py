"""The machine beside the samples: the load of other processes, and the clocks.

A backend that spreads one call over all cores waits for the slowest: a single foreign process can
cost it far more than its share, and cost two backends differently. Such numbers must not be quoted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from bench.machine.gpu_telemetry import GpuMonitor
from bench.machine.rapl import POWERCAP, PackageEnergy
from bench.record import Telemetry

DISTURBED_CORES = 0.1  # foreign load from which a run is called disturbed
# The same of a GPU, in share of its time. Processes take turns on it, so that a call takes about
# that much longer; less is what a desktop at rest draws, and NVML counts whole percents.
DISTURBED_SHARE = 0.05
TICK_S = 0.01  # step of the counters in /proc (USER_HZ is 100 on every Linux)
# proc(5): user nice system idle iowait irq softirq steal; guest time is inside user.
_IDLE_FIELDS = (3, 4)
_MOST_CLOCKS = 16  # a core's clock costs microseconds to ask for, and a server has hundreds


def busy_seconds(stat: Path) -> float | None:
    """Seconds that all cores together were busy since the start; None if unknown."""
    try:
        ticks = [int(field) for field in _text(stat).partition("\n")[0].split()[1:9]]
    except (OSError, ValueError):  # no Linux, or a sandbox with a file of its own
        return None
    busy = sum(tick for field, tick in enumerate(ticks) if field not in _IDLE_FIELDS)
    return TICK_S * busy if ticks else None


class Monitor:
    """Looks at the machine during turns.

    Args:
        gpu: its PCI address, such as ``0000:65:00.0``; None for none.
        proc, cpus, powercap: Linux's files of processes, cores and energy; without them their
            fields are None.
    """

    def __init__(
        self,
        gpu: str | None,
        proc: Path = Path("/proc"),
        cpus: Path = Path("/sys/devices/system/cpu"),
        powercap: Path = POWERCAP,
    ) -> None:
        self._proc, self._cpus, self._powercap = proc, cpus, powercap
        self._energy = PackageEnergy(powercap)
        self._gpu = None if gpu is None else GpuMonitor.opened(gpu)
        self._pids: tuple[int, ...] = ()
        self._workers: dict[int, float] = {}
        self._start, self._own, self._busy = 0.0, 0.0, busy_seconds(proc / "stat")

    def start(self, own_pids: Sequence[int]) -> None:
        """Begin a turn. ``own_pids``: all processes of this run beside this one."""
        self._pids = tuple(own_pids)
        if self._gpu is not None:
            self._gpu.start((os.getpid(), *own_pids))
        self._workers, self._own = self._seconds_of(own_pids), time.process_time()
        self._energy = PackageEnergy(self._powercap)
        self._start, self._busy = time.perf_counter(), busy_seconds(self._proc / "stat")

    def stop(self, own_cpu_s: float) -> Telemetry:
        """End the turn; return what was seen.

        Args:
            own_cpu_s: processor time that the worker reports. That of ``own_pids`` in /proc counts
                if it is more, as a worker may leave out what it did before its first sample.
        """
        foreign, joules = self._foreign_cores(own_cpu_s), self._energy.spent_j()
        gpu = Telemetry() if self._gpu is None else self._gpu.stop()
        mhz = cpu_mhz(self._proc, self._cpus)
        return replace(gpu, foreign_cores=foreign, cpu_mhz=mhz, cpu_energy_j=joules)

    def device_bytes(self, pid: int) -> int | None:
        return None if self._gpu is None else self._gpu.device_bytes(pid)

    def close(self) -> None:
        if self._gpu is not None:
            self._gpu.close()
            self._gpu = None

    def _foreign_cores(self, own_cpu_s: float) -> float | None:
        seconds = max(time.perf_counter() - self._start, 1e-9)
        busy = busy_seconds(self._proc / "stat")
        if busy is None or self._busy is None:
            return None
        now = self._seconds_of(self._pids)
        workers = sum(now[pid] - before for pid, before in self._workers.items() if pid in now)
        own = max(own_cpu_s, workers) + time.process_time() - self._own
        return max(0.0, (busy - self._busy - own) / seconds)

    def _seconds_of(self, pids: Iterable[int]) -> dict[int, float]:
        """Processor time so far, with all threads, of the processes that have not ended."""
        found = {}
        for pid in pids:
            try:
                # proc(5): utime and stime are fields 14 and 15; the name, field 2, may hold blanks.
                fields = _text(self._proc / str(pid) / "stat").rpartition(")")[2].split()
                found[pid] = (int(fields[11]) + int(fields[12])) * TICK_S
            except (OSError, ValueError, IndexError):
                continue
        return found


class CpuWatch:
    """Foreign load between its creation and ``foreign_cores``, all processes of ours excepted."""

    def __init__(self) -> None:
        self._monitor, self._children = Monitor(None), _children_seconds()
        self._monitor.start(())

    def foreign_cores(self) -> float | None:
        """Mean number of cores that other processes kept busy; None if unknown."""
        return self._monitor.stop(_children_seconds() - self._children).foreign_cores


def _children_seconds() -> float:
    """Processor time of processes that this one started and waited for."""
    used = os.times()
    return used.children_user + used.children_system


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def resolution_cores(seconds: float) -> float:
    """Foreign cores that a turn of that length may show although there are none.

    The kernel charges a core by whole ticks of 10 ms: each core that the worker uses may be off by
    one, and so may the sums of user and of system time. Two cores and 0.2 s: 0.2 cores.
    """
    return ((os.cpu_count() or 1) + 2) * TICK_S / max(seconds, 1e-9)


def marks(telemetry: Telemetry, seconds: float) -> tuple[str, ...]:
    """What may have slowed a turn of that length down: ``disturbed``, ``throttled``.

    It is disturbed from ``DISTURBED_CORES`` on, if that is more than the counters resolve, and
    from ``DISTURBED_SHARE`` of the GPU on.
    """
    foreign = telemetry.foreign_cores or 0.0
    disturbed = foreign >= DISTURBED_CORES and foreign > resolution_cores(seconds)
    disturbed |= (telemetry.gpu_foreign_share or 0.0) >= DISTURBED_SHARE
    found = {"disturbed": disturbed, "throttled": bool(telemetry.throttled)}
    return tuple(mark for mark, is_found in found.items() if is_found)


def cpu_mhz(proc: Path, cpus: Path) -> float | None:
    """Mean clock of at most 16 evenly spaced cores; None if unknown.

    From cpufreq (kHz) or, in virtual machines, /proc/cpuinfo, where it is often the nominal clock.
    """
    files = sorted(cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    try:
        chosen = files[:: max(1, -(-len(files) // _MOST_CLOCKS))]
        clocks = [int(_text(file)) / 1000 for file in chosen]
        if not clocks:
            lines = _text(proc / "cpuinfo").splitlines()
            clocks = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
    except (OSError, ValueError, IndexError):
        return None
    return fmean(clocks) if clocks else None
