"""What the instruments themselves say: the harness's own time, and the machine's peaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.backends.base import Recipe
from bench.isolation import Isolated, ProcessFailed
from bench.machine.peaks import PeakMeter
from bench.measure.request import Request
from bench.measure.timer import Timer
from bench.record import Peaks
from dabnet.console import ProgressBar
from dabnet.runtime.runner import NullRunner

CALLS = 2000


def harness_ns(size: tuple[int, int], logs: Path) -> float:
    """Median nanoseconds of a call that does nothing: what the timer adds to each sample.

    It is timed as every backend is: in a process of its own, by the same loop.
    """
    shape = (1, *size, 3)
    recipe = Recipe(NullRunner, {"shape": shape}, Path("null"))
    inputs = [np.full(shape, value, np.uint8) for value in range(4)]
    with Isolated("null", Timer, (recipe, inputs), logs / "null.log") as timer:
        timer.call("warm_up", "host", 0.5)
        return float(np.median(timer.call("turn", "host", CALLS).samples_ns))


def machine_peaks(request: Request, logs: Path, progress: ProgressBar) -> Peaks | None:
    """What the device can do at most; None where it cannot be measured."""
    arguments = (request.device, request.threads, request.cache)
    try:
        with Isolated("machine", PeakMeter, arguments, logs / "machine.log", progress) as meter:
            peaks: Peaks = meter.call("peaks")
            return peaks
    except ProcessFailed:
        return None
