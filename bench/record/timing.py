"""What was timed, how long each call took, and the machine meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.statistics import Latency
from dabnet.intervals import Interval


@dataclass(frozen=True, slots=True)
class Setting:
    """What one call is; rows of one setting are compared with each other.

    Attributes:
        size: (height, width) of the images in pixels.
        batch: frames a call.
        streams: calls in flight at a time, each from a thread of its own.
    """

    size: tuple[int, int]
    batch: int = 1
    streams: int = 1

    def __str__(self) -> str:
        text = f"{self.size[0]}x{self.size[1]}, batch {self.batch}"
        return text + (f", {self.streams} streams" if self.streams > 1 else "")


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The machine during one turn: means, and what was used of it.

    Attributes:
        foreign_cores: cores that other processes kept busy.
        cpu_mhz: mean clock of the cores.
        gpu_mhz, gpu_memory_mhz: clocks of the GPU's processors and memory.
        gpu_energy_j: of the turn. Over its frames: energy a frame.
        gpu_processes: others that had memory on the GPU.
        throttled: reasons for which the GPU held its clocks down, in NVML's words.
    """

    foreign_cores: float | None = None
    cpu_mhz: float | None = None
    gpu_mhz: float | None = None
    gpu_memory_mhz: float | None = None
    gpu_power_w: float | None = None
    gpu_temperature_c: float | None = None
    gpu_energy_j: float | None = None
    gpu_processes: int | None = None
    throttled: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """One backend's part of one round.

    Attributes:
        round: its number, from 0; the backends of one round are compared with each other.
        start_s: since the timing began.
        wall_s: from the first call's start to the last one's end. With several streams calls
            overlap, and this is less than the sum of the samples.
        samples_ns: latency of each call, in the order of their ends.
        telemetry: of the machine meanwhile.
        marks: ``disturbed``, ``throttled``: what may have slowed it down.
        counted: False where the round was repeated because of a mark of any of its turns.
    """

    round: int
    start_s: float
    wall_s: float
    samples_ns: tuple[int, ...]
    telemetry: Telemetry = field(default_factory=Telemetry)
    marks: tuple[str, ...] = ()
    counted: bool = True


@dataclass(frozen=True, slots=True)
class Timing:
    """One scope of a row.

    Attributes:
        scope: ``host``, ``device`` or ``paper``; see ``dabnet.runtime.runner``.
        latency: of the counted turns; None before the first.
        fps: frames a second, and its interval over rounds.
        speed_ratio: how many times faster than the reference of this setting and scope; None of
            the reference itself.
        verdict: ``faster``, ``slower``, ``indistinguishable``; "" without a ratio.
        turns: all, in order.
    """

    scope: str
    latency: Latency | None = None
    fps: Interval | None = None
    speed_ratio: Interval | None = None
    verdict: str = ""
    turns: tuple[Turn, ...] = ()
