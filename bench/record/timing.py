"""Timing of a row: the raw turns, the machine meanwhile, and the figures made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le, MaxLen, MinLen

from bench.statistics import interval_around, paired_ratio, verdict
from dabnet.intervals import Interval
from dabnet.records import Amount, Count, Name, Seconds, Share, Side

CAMERA, SEARCH = "camera", "search"
"""Scopes of the scenario ``camera``: at the rate that was asked for, and at searched rates."""

# What a clock gives: from 1 ns to 30 years.
Nanoseconds = Annotated[int, Ge(1), Le(10**18)]
Milliseconds = Annotated[float, Gt(0), Le(1e12)]
WallSeconds = Annotated[float, Ge(1e-9), Le(1e9)]
Several = Annotated[int, Ge(1), Le(2**20)]
Fps = Annotated[float, Ge(1e-6), Le(1e9)]


@dataclass(frozen=True, slots=True)
class Setting:
    """Size, batch and streams of a call; rows of one setting are compared with each other."""

    size: tuple[Side, Side]  # (height, width) in pixels
    batch: Several = 1  # frames per call
    streams: Several = 1  # calls in flight at a time, each from its own thread

    def __str__(self) -> str:
        text = f"{self.size[0]}x{self.size[1]}, batch {self.batch}"
        return text + (f", {self.streams} streams" if self.streams > 1 else "")


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The machine during one turn; clocks, power and temperature are means."""

    foreign_cores: Amount | None = None  # cores that other processes kept busy
    cpu_mhz: Amount | None = None
    gpu_mhz: Amount | None = None
    gpu_memory_mhz: Amount | None = None
    gpu_power_w: Amount | None = None
    gpu_temperature_c: float | None = None
    gpu_energy_j: Amount | None = None  # of the turn; divided by its frames: energy per frame
    cpu_energy_j: Amount | None = None  # of the turn and of all packages, idle ones too
    gpu_processes: Count | None = None  # others that held memory on the GPU
    gpu_foreign_share: Share | None = None  # time of the GPU that they took
    clock_reasons: tuple[Name, ...] = ()  # all that decided the GPU's clocks, in NVML's words
    throttled: tuple[Name, ...] = ()  # those of them that lower the clocks against the user's will


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of a turn that arrived by a clock of their own; see ``bench.measure.camera``."""

    fps: Fps  # of each camera
    cameras: Several
    dropped: Count  # replaced by a newer frame of their camera before their turn came

    @property
    def deadline_ns(self) -> int:
        """Of a mask, from the arrival of its frame: the period of a camera."""
        return round(1e9 / self.fps)


@dataclass(frozen=True, slots=True)
class Turn:
    """One backend's part of one round."""

    round: Count  # its number, from 0; backends are compared with each other within a round
    start_s: Seconds  # since the timing began
    # From the start of the first call to the end of the last. With several streams calls overlap,
    # and this is less than the sum of the samples.
    wall_s: WallSeconds
    # Latency of each call, in the order in which the calls ended; with ``frames`` from the arrival
    # of the frame.
    samples_ns: Annotated[tuple[Nanoseconds, ...], MinLen(1)]
    telemetry: Telemetry = field(default_factory=Telemetry)
    marks: tuple[Name, ...] = ()  # ``disturbed``, ``throttled``: what may have slowed the round
    counted: bool = True  # False if the round was repeated because one of its turns has a mark
    frames: Frames | None = None  # None of calls that follow each other


@dataclass(frozen=True, slots=True)
class Latency:
    """Summary of the raw latencies of calls in milliseconds; no sample is trimmed."""

    calls: Annotated[int, Ge(1)]
    min_ms: Milliseconds
    p50_ms: Milliseconds
    p90_ms: Milliseconds
    p95_ms: Milliseconds
    p99_ms: Milliseconds
    iqr_ms: Amount


@dataclass(frozen=True, slots=True)
class Timing:
    """One scope of a row."""

    # ``host``, ``device``, ``events`` (``dabnet.runtime.runner``), ``paper``, ``camera`` or
    # ``search``, which has turns alone.
    scope: Name
    latency: Latency | None = None  # of the counted turns; None before the first
    fps: Interval | None = None  # frames per second, and its interval over rounds
    # How many times faster than the reference of this setting and scope; None for itself.
    speed_ratio: Interval | None = None
    verdict: Name = ""  # of ``bench.statistics.verdict``; "" without a ratio
    turns: Annotated[tuple[Turn, ...], MaxLen(110_000)] = ()

    @classmethod
    def of(
        cls, scope: str, turns: Sequence[Turn], batch: int, reference: Sequence[Turn] | None
    ) -> Timing:
        """Summarise turns; ``reference``: those of the reference, None for itself or without."""
        if scope == SEARCH:  # each turn has another rate
            return cls(scope, turns=tuple(turns))
        compared = reference is not None and scope != CAMERA  # whose latency depends on the rate
        ratio = speed_ratio(reference or (), turns) if compared else None
        fps, word = fps_of_turns(turns, batch), verdict(ratio) if ratio else ""
        return cls(scope, latency(turns), fps, ratio, word, tuple(turns))

    @property
    def marks(self) -> tuple[str, ...]:
        """What may have slowed its counted turns down, each once, sorted."""
        return tuple(sorted({mark for turn in counted_turns(self.turns) for mark in turn.marks}))


def counted_turns(turns: Sequence[Turn]) -> list[Turn]:
    """The turns that count."""
    return [turn for turn in turns if turn.counted]


def latency(turns: Sequence[Turn]) -> Latency | None:
    """Summarise the calls of the counted turns; None if there are none."""
    counted = [turn.samples_ns for turn in counted_turns(turns)]
    if not counted:
        return None
    ms = np.concatenate(counted) / 1e6
    low, p25, p50, p75, p90, p95, p99 = np.percentile(ms, (0, 25, 50, 75, 90, 95, 99)).tolist()
    return Latency(len(ms), low, p50, p90, p95, p99, p75 - p25)


def fps_of_turns(turns: Sequence[Turn], batch: int) -> Interval | None:
    """Frames per second: frames by time over all counted turns, so that slow calls count.

    None with fewer than two rounds, which give no interval.
    """
    counted = counted_turns(turns)
    if len(counted) < 2:
        return None
    frames = np.array([batch * len(turn.samples_ns) for turn in counted], np.float64)
    seconds = np.array([turn.wall_s for turn in counted])
    return interval_around(float(frames.sum() / seconds.sum()), frames / seconds)


def speed_ratio(reference: Sequence[Turn], candidate: Sequence[Turn]) -> Interval | None:
    """How many times faster than the reference: above 1 is faster.

    Each round that counts for both gives one ratio of ``seconds_by_round``; see ``paired_ratio``.
    None with fewer than two such rounds.
    """
    theirs, ours = seconds_by_round(reference), seconds_by_round(candidate)
    rounds = sorted(ours.keys() & theirs)
    if len(rounds) < 2:
        return None
    return paired_ratio([theirs[number] for number in rounds], [ours[number] for number in rounds])


def seconds_by_round(turns: Sequence[Turn]) -> dict[int, float]:
    """Round → seconds per call: the median or, where calls overlapped, the wall time by calls."""
    found = {}
    for turn in counted_turns(turns):
        seconds = np.array(turn.samples_ns, np.float64) / 1e9
        overlap = turn.frames is None and seconds.sum() > 1.01 * turn.wall_s
        found[turn.round] = turn.wall_s / len(seconds) if overlap else float(np.median(seconds))
    return found
