"""How much of the processor others used while this process was timing.

A backend that spreads one call over all cores waits for the slowest: a single foreign process can
cost it far more than its share, and cost two backends differently. Such numbers must not be quoted.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

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
        """Mean number of cores that other processes kept busy; None where it is not known."""
        busy = busy_seconds()
        if busy is None or self._busy is None:
            return None
        foreign = (busy - self._busy) - (_own_seconds() - self._own)
        return max(0.0, foreign / (time.perf_counter() - self._start))


def busy_seconds(stat: Path = _STAT) -> float | None:
    """Seconds that all cores together were busy since the start; None where it is not known."""
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
