"""The time of a step, measured before a run with what the run trains with."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable, Iterable

from torch import Tensor

from dabnet.data.batches import Batch
from dabnet.interrupt import Stop
from dabnet.training.learner import Learner


def measured_step_s(
    learner: Learner,
    source: Iterable[Batch],
    warm_up: int,
    bound_s: float,
    progress: Callable[[], None],
) -> float:
    """Return the seconds of a step; the learner's state is afterwards what it was.

    Args:
        source: batches of the run, from its first.
        warm_up: steps that do not count besides the first, which compiles, chooses kernels and
            makes the optimiser's state; at most half of all steps are left out.
        bound_s: about how long steps are made after the first; at least two are, if there are as
            many batches.
        progress: called after each step.
    """
    before = copy.deepcopy((learner.kept_weights(), learner.state()))
    stop, outcomes, times = Stop(), deque[Tensor](), [time.monotonic()]
    for number, (pixels, labels) in enumerate(source):
        outcomes.append(learner.step(number, pixels, labels, stop))
        # All processes end at the same step, as they do at Ctrl-C.
        over = len(outcomes) > learner.lag and outcomes.popleft().tolist()[1] > 0
        times.append(time.monotonic())
        progress()
        if over:
            break
        # The next step is the last if it will reach the bound.
        stop.asked = number > 0 and 2 * times[-1] - times[-2] - times[1] >= bound_s
    if outcomes:
        outcomes[-1].tolist()  # waits for a GPU
        times[-1] = time.monotonic()
    learner.restore(*before)
    steps = len(times) - 1
    skipped = min(1 + warm_up, steps // 2)
    return (times[-1] - times[skipped]) / (steps - skipped)
