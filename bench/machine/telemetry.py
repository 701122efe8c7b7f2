"""The machine beside the samples: the load of other processes, and the clocks.

A backend that spreads one call over all cores waits for the slowest: a single foreign process can
cost it far more than its share, and cost two backends differently. Such numbers must not be quoted.

Counters of the processor are read when a turn starts and when it ends, and not between. A GPU is
sampled by ``bench.machine.gpu_telemetry`` while the turn runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from bench.machine.gpu_telemetry import GpuMonitor
from bench.record import Telemetry

DISTURBED_CORES = 0.1
"""Foreign load, in cores, from which a run is called disturbed."""

_STAT = Path("/proc/stat")
# proc(5): user nice system idle iowait irq softirq steal; guest time is inside user.
_IDLE_FIELDS = (3, 4)


class CpuWatch:
    """Measures foreign load between its creation and ``foreign_cores``."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._busy, self._own = busy_seconds(), _own_seconds()

    def foreign_cores(self) -> float | None:
        """Mean number of cores that other processes kept busy; None if unknown."""
        busy = busy_seconds()
        if busy is None or self._busy is None:
            return None
        foreign = (busy - self._busy) - (_own_seconds() - self._own)
        return max(0.0, foreign / (time.perf_counter() - self._start))


def busy_seconds(stat: Path = _STAT) -> float | None:
    """Seconds that all cores together were busy since the start; None if unknown."""
    try:
        first = stat.read_text(encoding="ascii").split("\n", 1)[0]
        ticks = [int(field) for field in first.split()[1:9]]
    except (OSError, ValueError):  # no Linux, or a sandbox with a file of its own
        return None
    if not ticks:
        return None
    busy = sum(value for number, value in enumerate(ticks) if number not in _IDLE_FIELDS)
    return float(busy / os.sysconf("SC_CLK_TCK"))


def _own_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


TICK_S = 0.01
"""Step of the counters in /proc (USER_HZ is 100 on every Linux)."""

_MOST_CLOCKS = 16  # a core's clock costs microseconds to ask for, and a server has hundreds


class Monitor:
    """Looks at the machine during turns.

    Args:
        gpu: its index in NVML; None for none. Without a driver or nvidia-ml-py: as None.
        proc, cpus: Linux's files of processes and cores. Other systems lack them, and their
            fields are None.
    """

    def __init__(
        self,
        gpu: int | None,
        proc: Path = Path("/proc"),
        cpus: Path = Path("/sys/devices/system/cpu"),
    ) -> None:
        self._proc, self._cpus = proc, cpus
        self._gpu = None if gpu is None else GpuMonitor.opened(gpu)
        self._pids: tuple[int, ...] = ()
        self._start, self._busy = 0.0, busy_seconds(proc / "stat")
        self._own, self._workers = 0.0, dict[int, float]()

    def start(self, own_pids: Sequence[int]) -> None:
        """Begin a turn. ``own_pids``: all processes of this run beside this one."""
        self._pids = tuple(own_pids)
        if self._gpu is not None:
            self._gpu.start((os.getpid(), *own_pids))
        self._workers, self._own = self._seconds_of(own_pids), time.process_time()
        self._start, self._busy = time.perf_counter(), busy_seconds(self._proc / "stat")

    def stop(self, own_cpu_s: float) -> Telemetry:
        """End the turn; return what was seen.

        Args:
            own_cpu_s: processor time that the worker reports. The time of ``own_pids`` in /proc
                counts if it is more: it holds all between start and stop, and a worker may leave
                out what it did before its first sample.
        """
        seconds = max(time.perf_counter() - self._start, 1e-9)
        foreign = self._foreign_cores(own_cpu_s, seconds)
        gpu = Telemetry() if self._gpu is None else self._gpu.stop()
        return replace(gpu, foreign_cores=foreign, cpu_mhz=cpu_mhz(self._proc, self._cpus))

    def device_bytes(self, pid: int) -> int | None:
        """Memory of the GPU that a process holds; None if NVML does not know."""
        return None if self._gpu is None else self._gpu.device_bytes(pid)

    def close(self) -> None:
        """Release NVML."""
        if self._gpu is not None:
            self._gpu.close()
            self._gpu = None

    def _foreign_cores(self, own_cpu_s: float, seconds: float) -> float | None:
        busy = busy_seconds(self._proc / "stat")
        if busy is None or self._busy is None:
            return None
        now = self._seconds_of(self._pids)
        workers = sum(now[pid] - before for pid, before in self._workers.items() if pid in now)
        own = max(own_cpu_s, workers) + time.process_time() - self._own
        return max(0.0, (busy - self._busy - own) / seconds)

    def _seconds_of(self, pids: Iterable[int]) -> dict[int, float]:
        """Processor time of processes so far, with all threads; processes that ended are left out.

        proc(5): utime and stime are fields 14 and 15 of /proc/PID/stat, in ticks.
        """
        found = {}
        for pid in pids:
            try:
                text = (self._proc / str(pid) / "stat").read_text(
                    encoding="utf-8", errors="replace"
                )
                fields = text.rpartition(")")[2].split()  # a name may hold blanks and brackets
                found[pid] = (int(fields[11]) + int(fields[12])) * TICK_S
            except (OSError, ValueError, IndexError):
                continue
        return found


def resolution_cores(seconds: float) -> float:
    """Foreign cores that a turn of that length may show although there are none.

    The kernel charges a core by whole ticks of 10 ms, and a turn starts and ends between two: each
    core that the worker uses may be off by one, and so may the sums that are shown of user and of
    system time. Two cores and 0.2 s: 0.2 cores.
    """
    return ((os.cpu_count() or 1) + 2) * TICK_S / max(seconds, 1e-9)


def marks(telemetry: Telemetry, seconds: float) -> tuple[str, ...]:
    """What may have slowed a turn of that length down: ``disturbed``, ``throttled``.

    It is disturbed from ``DISTURBED_CORES`` on, if that is more than the counters resolve.
    """
    found = []
    foreign = telemetry.foreign_cores
    if foreign is not None and foreign >= DISTURBED_CORES and foreign > resolution_cores(seconds):
        found.append("disturbed")
    if telemetry.throttled:
        found.append("throttled")
    return tuple(found)


def cpu_mhz(proc: Path, cpus: Path) -> float | None:
    """Mean clock of at most 16 evenly spaced cores; None if unknown.

    From cpufreq (kHz), or from /proc/cpuinfo, the only source in virtual machines, where it is
    often the nominal clock.
    """
    files = sorted(cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    try:
        chosen = files[:: max(1, -(-len(files) // _MOST_CLOCKS))]
        clocks = [int(file.read_text(encoding="ascii")) / 1000 for file in chosen]
        if not clocks:
            lines = (proc / "cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
            clocks = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
    except (OSError, ValueError, IndexError):
        return None
    return sum(clocks) / len(clocks) if clocks else None
