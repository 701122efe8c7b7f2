"""A run that must end in time: how many iterations fit, and whether they still do while it runs.

The plan is made once, from measured times. A run that turns out slower loses iterations of its
plan; one that turns out faster gains none.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from statistics import median

from dabnet.errors import InputError
from dabnet.training.recipes import eval_interval

RESERVE_S = 1.0
"""For what the run does not see: the start of Python before it, and the end of Python after it."""

PLAN_MARGIN, RUN_MARGIN = 0.03, 0.01
"""Shares of the limit. A plan leaves the first; one that would leave less than the second is made
anew."""

MEASURE_SHARE, MOST_MEASURE_S = 0.04, 10.0
"""Steps are measured for about this share of the limit, at most for these seconds."""

VALIDATION_SHARE = 0.2
"""The most of the time that validations take where no ``--eval-every`` was given."""

CHUNKS, CHUNK_SHARE = 5, 0.02
"""The pace is looked at after each 5 chunks of 2 % of the iterations that were left."""


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """The time that a run may take, from its start to the end of its process.

    Attributes:
        minutes: more than 0.
        started_s: ``time.monotonic()`` at the start.
    """

    minutes: float
    started_s: float = field(default_factory=time.monotonic)

    @property
    def used_s(self) -> float:
        return time.monotonic() - self.started_s

    @property
    def measure_s(self) -> float:
        return min(MEASURE_SHARE * 60 * self.minutes, MOST_MEASURE_S)

    def left_s(self, margin: float, used_s: float) -> float:
        """Seconds that are left but for ``margin``, a share of the limit."""
        return 60 * self.minutes * (1 - margin) - RESERVE_S - used_s

    def too_short(self, costs: Costs, used_s: float, validations: int = 1) -> InputError:
        """The error where no step fits, with the ``validations`` that even one step takes."""
        least_s = costs.step_s + validations * costs.validation_s
        needed_s = (used_s + RESERVE_S + least_s) / (1 - PLAN_MARGIN)
        return InputError(
            f"--max-minutes {self.minutes:g}, but {used_s:.2g} s had passed before training, a step"
            f" takes {costs.step_s:.2g} s and a validation {costs.validation_s:.2g} s",
            f"more than {math.ceil(needed_s / 6) / 10:g} minutes",
        )


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of a step, and of a validation with its pictures and saves."""

    step_s: float
    validation_s: float

    def at_pace(self, step_s: float) -> Costs:
        """What the same work takes on a machine that now needs ``step_s`` for a step."""
        return Costs(step_s, self.validation_s * step_s / self.step_s)

    def interval(self, per_epoch: int, epochs: float) -> int:
        """Epochs between validations of a run of ``epochs``, where none was asked for."""
        share = VALIDATION_SHARE / (1 - VALIDATION_SHARE)
        seldom = math.ceil(self.validation_s / (share * self.step_s * per_epoch))
        return max(1, min(math.ceil(epochs), max(eval_interval(epochs), seldom)))

    def fitting(
        self, seconds: float, done: int, most: int, per_epoch: int, every: int | None, first: int
    ) -> int:
        """Return the total of iterations, ``done`` … ``most``, that ends within ``seconds``.

        It ends with an epoch, unless not even the present one fits.

        Args:
            done: iterations that are done.
            every: epochs between validations; None: ``interval``. There is one at the end, too.
            first: the first epoch whose validation, if it has one, is still to come.
        """

        def cost(total: int) -> float:
            epochs, rest = divmod(total, per_epoch)
            step = every or self.interval(per_epoch, total / per_epoch)
            validations = epochs // step - (first - 1) // step + (rest > 0 or epochs % step > 0)
            return (total - done) * self.step_s + validations * self.validation_s

        reach = int(min(most, done + max(0.0, seconds) / self.step_s))
        ends = range(reach - reach % per_epoch, done, -per_epoch)
        for total in (reach, *ends) if reach == most > done else ends:
            if cost(total) <= seconds:
                return total
        steps = math.floor((seconds - cost(done + 1)) / self.step_s) + 1
        return min(reach, done + max(0, steps))


class Watch:
    """Sees while a run goes on whether the rest still fits.

    It looks at the median pace of five chunks of steps: one slow chunk, such as the first or one
    while the machine did something else, is no sign that all others will be slow.

    Args:
        costs: as they were measured.
        total: iterations of the run.
    """

    def __init__(self, limit: TimeLimit, costs: Costs, total: int) -> None:
        self.limit, self.costs = limit, costs
        self.begin(0, total)

    def begin(self, done: int, total: int) -> None:
        """Start the chunks until the next look at a run that has done some of its ``total``."""
        self._chunk = max(1, round(CHUNK_SHARE * (total - done)))
        self._end = done + self._chunk
        self._paces_s: list[float] = []
        self._since_s = time.monotonic()

    def is_due(self, done: int) -> bool:
        """Note a step; say whether to look now, which all processes do after the same step."""
        if done < self._end:
            return False
        now = time.monotonic()
        self._paces_s.append((now - self._since_s) / self._chunk)
        self._since_s, self._end = now, done + self._chunk
        return len(self._paces_s) == CHUNKS

    def validated(self, seconds: float) -> None:
        """Note a validation, which is no part of a chunk."""
        self._since_s += seconds
        self.costs = replace(self.costs, validation_s=seconds)

    def total(self, done: int, planned: int, per_epoch: int, every: int) -> int:
        """Return the iterations that the run can have, ``done`` … ``planned``."""
        self.costs = self.costs.at_pace(median(self._paces_s))
        # After the last step of an epoch, its validation is still to come.
        place = (done, planned, per_epoch, every, -(-done // per_epoch))
        used_s = self.limit.used_s
        if self.costs.fitting(self.limit.left_s(RUN_MARGIN, used_s), *place) == planned:
            return planned
        return self.costs.fitting(self.limit.left_s(PLAN_MARGIN, used_s), *place)
