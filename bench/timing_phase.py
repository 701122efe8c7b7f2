"""Time the rows of one setting: all are open at a time, and one runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from bench.image_set import timed_inputs
from bench.isolation import Isolated, ProcessFailed
from bench.machine.telemetry import Monitor
from bench.paper import PaperProtocol
from bench.record import Footprint, Turn
from bench.request import Request
from bench.rounds import Interleaved
from bench.state import PAPER, State
from bench.timer import Timer
from dabnet.console import ProgressBar
from dabnet.data.dataset import Dataset

PAPER_RUNS = 3
LAYER_CALLS = 10


def time_rows(
    state: State,
    request: Request,
    dataset: Dataset,
    logs: Path,
    progress: ProgressBar,
    done: Callable[[], None],
) -> None:
    """Warm up every row, do the rounds that are left, and see what each row cost beside time.

    Rows that fail get a reason, and the rest goes on. ``done`` is called after each round.
    """
    with contextlib.ExitStack() as stack:
        watch = Monitor(0 if request.device == "cuda" else None)
        stack.callback(watch.close)
        timers = _opened(state, request, dataset, logs, stack)
        rounds = Interleaved(timers, request.scenario, watch, state.turns)
        with progress("warming up", len(timers), "rows") as step:
            rounds.warm_up(step)
        with progress(f"timing {state.setting}", rounds.left, "rounds") as step:

            def after_round() -> None:
                step()
                done()

            rounds.run(after_round)
        state.reasons |= rounds.failures
        for name, timer in timers.items():
            if timer.alive:
                _look_at(state, name, timer, watch, request.layers)
    for name in state.of_paper:
        _repeat_paper(state, name, logs)


def _opened(
    state: State, request: Request, dataset: Dataset, logs: Path, stack: contextlib.ExitStack
) -> dict[str, Isolated]:
    setting, timeout = state.setting, request.scenario.timeout_s
    inputs = timed_inputs(dataset, setting.size, setting.batch)
    timers: dict[str, Isolated] = {}
    for name in state.runnable:
        arguments = (state.recipes[name], inputs, setting.streams)
        log = logs / f"{name}-timing.log"
        try:
            timer = stack.enter_context(Isolated(name, Timer, arguments, log, timeout_s=timeout))
            state.opened[name] = timer.call("opened")
            timers[name] = timer
        except ProcessFailed as error:
            state.reasons[name] = str(error)
    return timers


def _look_at(state: State, name: str, timer: Isolated, watch: Monitor, layers: bool) -> None:
    """What a row cost beside time, after its rounds."""
    opened = state.opened[name]
    try:
        state.footprints[name] = Footprint(
            state.recipes[name].artifact.stat().st_size,
            opened.load_s,
            opened.first_inference_s,
            timer.call("host_peak_bytes"),
            watch.device_bytes(timer.pid),
        )
        if layers:
            state.layers[name] = timer.call("layer_times", LAYER_CALLS)
    except ProcessFailed as error:
        state.notes[name] = str(error)  # the row has its times: it lacks this alone


def _repeat_paper(state: State, name: str, logs: Path) -> None:
    """Time the original protocol, a few times for its interval."""
    turns = []
    try:
        arguments = tuple(state.recipes[name].arguments.values())
        with Isolated(name, PaperProtocol, arguments, logs / f"{name}.log") as paper:
            for number in range(PAPER_RUNS):
                seconds = paper.call("run")
                turns.append(Turn(number, 0.0, seconds, (round(1e9 * seconds),)))
    except ProcessFailed as error:
        state.reasons[name] = str(error)
        return
    state.turns[name] = {PAPER: turns}
