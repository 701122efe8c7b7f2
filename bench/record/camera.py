"""What turns of the scenario ``camera`` tell: misses, latency, energy and the rate that is kept.

Turns of the scope ``search`` are one staircase: the rate of each follows from those before it, so
that a search goes on after a run was stopped, and a turn that does not count is made again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bench.record.timing import Frames, Turn, counted_turns
from bench.statistics import interval_around, percentile_interval, share_interval
from dabnet.intervals import Interval

MOST_LATE = 0.01
"""Share of late frames up to which a rate is kept in a window, if no frame is dropped."""
RESOLUTION = 0.02
"""A search ends where the lowest rate not kept is at most that much above the highest one kept."""
_FIRST_STEP, _STEP = 1.5, 1.08
"""Of the first search, which begins at a guess, and of the others, which begin where one ended."""
_LOWEST, _HIGHEST = 1e-6, 1e9  # frames per second, as of ``Frames.fps``
_LARGEST_STEP = 4.0
_LEAST_J = 1e-9  # what no counter resolves


def windows(turns: Sequence[Turn]) -> list[tuple[Turn, Frames]]:
    """The counted turns that hold frames."""
    return [(turn, turn.frames) for turn in counted_turns(turns) if turn.frames]


def late(turn: Turn, frames: Frames) -> int:
    """Number of masks that came after their deadline."""
    return sum(sample > frames.deadline_ns for sample in turn.samples_ns)


def missed(turns: Sequence[Turn]) -> Interval | None:
    """Share of the frames without a mask in time: late or dropped. None under two windows."""
    return _share(
        [(late(t, f) + f.dropped, len(t.samples_ns) + f.dropped) for t, f in windows(turns)]
    )


def dropped(turns: Sequence[Turn]) -> Interval | None:
    """Share of the frames that were dropped. None under two windows."""
    return _share([(f.dropped, len(t.samples_ns) + f.dropped) for t, f in windows(turns)])


def arrival_to_mask(turns: Sequence[Turn], percent: float) -> Interval | None:
    """Percentile of the seconds from arrival to mask, of frames with a mask; None of too few."""
    return percentile_interval([np.array(t.samples_ns) / 1e9 for t, _ in windows(turns)], percent)


def energy_per_mask(turns: Sequence[Turn], counter: str) -> Interval | None:
    """Joules of a window over its masks: ``gpu_energy_j`` or ``cpu_energy_j``.

    None under two windows, or unless the machine told them all.
    """
    found = [(getattr(t.telemetry, counter), len(t.samples_ns)) for t, _ in windows(turns)]
    known = [(joules, masks) for joules, masks in found if joules is not None]
    if len(known) < max(2, len(found)) or any(joules < masks * _LEAST_J for joules, masks in known):
        return None
    joules, masks = np.array(known, np.float64).T
    return interval_around(float(joules.sum() / masks.sum()), joules / masks)


def is_kept(turn: Turn, frames: Frames) -> bool:
    """Whether no frame was dropped and at most ``MOST_LATE`` of them were late."""
    return not frames.dropped and late(turn, frames) <= MOST_LATE * len(turn.samples_ns)


def kept_fps(turns: Sequence[Turn]) -> Interval | None:
    """Highest rate of each camera that is kept: geometric mean of the searches.

    The interval reaches from the lower end of the highest rates kept to the upper end of the lowest
    rates not kept, each over searches: it holds the step of a search. None under two searches.
    """
    ended, _ = _searches(turns)
    if len(ended) < 2:
        return None
    kept, lost = np.array(ended).T
    ends = [interval_around(float(np.exp(np.log(rates).mean())), rates) for rates in (kept, lost)]
    return Interval(ends[0].value, ends[0].low, ends[1].high)


def next_fps(turns: Sequence[Turn], guess: float) -> float:
    """The rate of the next turn of a search that may begin at ``guess``."""
    _, rate = _searches(turns)
    return min(max(_LOWEST, guess if rate is None else rate), _HIGHEST)


def _searches(turns: Sequence[Turn]) -> tuple[list[tuple[float, float]], float | None]:
    """(highest rate kept, lowest rate not kept) of each search that ended, and the next rate.

    A search goes up or down in growing steps until it has both, and then halves between them.
    """
    ended: list[tuple[float, float]] = []
    kept = lost = rate = None
    step = _FIRST_STEP
    for turn, frames in windows(turns):
        rate = frames.fps
        if is_kept(turn, frames):
            kept = rate
        else:
            lost = rate
        if kept is None or lost is None:
            rate = rate * step if lost is None else rate / step
            step = min(step**2, _LARGEST_STEP)
        elif lost > (1 + RESOLUTION) * kept:
            rate = math.sqrt(kept * lost)
        else:
            ended.append((kept, lost))
            rate, kept, lost, step = kept, None, None, _STEP
    return ended, rate


def _share(counts: Sequence[tuple[int, int]]) -> Interval | None:
    return share_interval(*np.array(counts).T) if len(counts) > 1 else None
