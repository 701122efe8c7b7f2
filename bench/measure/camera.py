"""Frames from cameras: they arrive by a clock that knows nothing of who serves them.

The times of all frames of a window are fixed before it begins (LoadGen's rule; MLPerf Inference,
arXiv 1911.02549): a slow call delays no frame, and latency counts from the time at which a frame
was to arrive, not from when somebody looked (no coordinated omission).

The queue has one place per camera, and calls take the places in the order in which they were
filled. A frame that finds the place of its camera taken replaces the one that waits there, which is
dropped, and keeps its turn: what a robot should see next is the newest frame.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Frames of one window; every camera has its own phase, as cameras without a common trigger."""

    fps: float  # of each camera
    frames: int  # of each camera, evenly spaced
    phases: tuple[float, ...]  # one per camera, in periods (0…1)

    def times_ns(self) -> list[tuple[int, int]]:
        """(nanoseconds since the start, number of the camera) of all frames, in order.

        The first frame arrives at 0.
        """
        period, first = 1e9 / self.fps, min(self.phases)
        return sorted(
            (round(period * (number + phase - first)), camera)
            for camera, phase in enumerate(self.phases)
            for number in range(self.frames)
        )


@dataclass(frozen=True, slots=True)
class Served:
    """What became of the frames of one window."""

    latencies_ns: tuple[int, ...]  # from arrival to mask, in the order of the calls
    dropped: int
    wall_s: float  # whole periods of a camera, or longer where masks came later


def serve(call: Callable[[int], Any], arrivals: Arrivals) -> Served:
    """Serve the frames of one window; ``call`` gets the number of the call.

    One thread is enough: what happened during a call is read from the times when it has ended.
    Between frames it sleeps, as an application does; the time to wake up counts.
    """
    frames, at, dropped = arrivals.times_ns(), 0, 0
    waiting: dict[int, int] = {}  # camera → arrival of its frame, in the order of the places
    latencies: list[int] = []
    start = time.perf_counter_ns()
    while waiting or at < len(frames):
        now = time.perf_counter_ns() - start
        while at < len(frames) and frames[at][0] <= now:
            arrival, camera = frames[at]
            dropped += camera in waiting
            waiting[camera] = arrival
            at += 1
        if not waiting:
            time.sleep((frames[at][0] - now) / 1e9)
            continue
        arrival = waiting.pop(next(iter(waiting)))
        call(len(latencies))
        latencies.append(time.perf_counter_ns() - start - arrival)
    left = arrivals.frames / arrivals.fps - (time.perf_counter_ns() - start) / 1e9
    time.sleep(max(0.0, left))
    wall_s = (time.perf_counter_ns() - start) / 1e9
    return Served(tuple(latencies), dropped, wall_s)
