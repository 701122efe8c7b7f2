"""How the speeds of two rows compare: one rule for tables, page and ``recommend``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.record import Row, Timing
from bench.record.timing import counted_turns, seconds_by_round, speed_ratio
from bench.statistics import MARGIN, NOT_TOLD, rounds_needed, verdict
from dabnet.intervals import Interval

WITHIN = f"within {100 * MARGIN:g} %"


@dataclass(frozen=True, slots=True)
class Compared:
    """The speed of a row relative to another in the same rounds.

    Attributes:
        ratio: above 1 is faster; None with fewer than two rounds in common.
        rounds: of the row that counted.
    """

    ratio: Interval | None
    rounds: int

    @property
    def verdict(self) -> str:
        """``faster``, ``slower``, ``equal`` or ``not told apart``."""
        return verdict(self.ratio) if self.ratio else NOT_TOLD

    @property
    def needed(self) -> int | None:
        """Rounds that would tell the two apart or equal; see ``rounds_needed``."""
        return rounds_needed(self.ratio, self.rounds) if self.ratio else None

    @property
    def more(self) -> str:
        """How much more of a measurement would tell two rows that are not told apart."""
        if self.needed is None:
            return "two rounds or more"
        return f"about {self.needed} rounds instead of {self.rounds}"


def compared(own: Timing, other: Timing) -> Compared:
    """Compare one scope of two rows of one setting: ``own`` relative to ``other``."""
    return Compared(speed_ratio(other.turns, own.turns), len(counted_turns(own.turns)))


def to_reference(timing: Timing) -> Compared:
    """The comparison with the reference of its setting, which the record holds."""
    return Compared(timing.speed_ratio, len(counted_turns(timing.turns)))


def by_speed(rows: Sequence[Row], scope: str) -> list[Row]:
    """The rows in the order of their speed, the fastest first, those without a timing last.

    It is the order of the estimates of ``compared``: of geometric means of the rounds.
    """

    def seconds(row: Row) -> float:
        timing = row.timing(scope)
        times = seconds_by_round(timing.turns) if timing else {}
        return float(np.log(list(times.values())).mean()) if times else math.inf

    return sorted(rows, key=seconds)
