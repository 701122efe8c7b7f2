"""One run: prepare every row, score it, time it among the others, and keep the record of it.

The record on the disk is valid after each step: a run that is stopped leaves what it has, and the
same command goes on from there.

Score the rows of one setting, each in a process of its own, the reference first.

Time the rows of one setting: all are open at a time, and one runs.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from bench.backends.base import Recipe
from bench.isolation import Isolated, ProcessFailed
from bench.machine.environment import describe_environment
from bench.machine.telemetry import Monitor
from bench.measure.accuracy import Scored, Scorer
from bench.measure.harness import harness_ns, machine_peaks
from bench.measure.overlap import overlapping, refuse
from bench.measure.paper import PaperProtocol
from bench.measure.preparation import prepared_recipes
from bench.measure.request import Request
from bench.measure.rounds import Interleaved
from bench.measure.timer import Timer
from bench.pictures import save_pictures
from bench.record import REFERENCE, Footprint, Peaks, Picture, Report, Setting, Turn
from bench.record.file import read_record, write_record
from bench.state import PAPER, State
from dabnet.checkpoint import load_checkpoint
from dabnet.console import ProgressBar
from dabnet.data.dataset import evenly_spaced
from dabnet.data.images import SizedImages
from dabnet.data.labels import Category
from dabnet.errors import InputError
from dabnet.files import sha256_of_file, writable_directory


@dataclass(frozen=True, slots=True)
class Scoring:
    """What scoring needs beside the rows.

    Attributes:
        request: of the run.
        categories: of the data set.
        overlaps: row → names of scored images that calibrated it.
        shown: numbers of those whose masks are kept for pictures.
        work: folder of masks and scores; what it holds is not scored again.
        logs: folder of the processes' output.
        progress: shows bars.
    """

    request: Request
    categories: Sequence[Category]
    overlaps: Mapping[str, tuple[str, ...]]
    shown: Sequence[int]
    work: Path
    logs: Path
    progress: ProgressBar

    def folder(self, state: State, name: str) -> Path:
        """Where one row's masks and scores are kept."""
        height, width = state.setting.size
        return self.work / f"{height}x{width}-{state.setting.batch}" / name

    def score(self, state: State, name: str) -> None:
        """Score one row, or take what was kept of it; where that fails, the row has a reason."""
        folder = writable_directory(self.folder(state, name))
        kept = folder / "scores.npz"
        if kept.is_file():
            state.scored[name] = Scored.load(kept)
        else:
            try:
                state.scored[name] = self._run(state, name)
            except ProcessFailed as error:
                state.reasons[name] = str(error)
                return
            state.scored[name].save(kept)
        labelled, overlap = self.request.images.labelled, self.overlaps.get(name, ())
        state.summarise(name, labelled, self.categories, overlap)

    def _run(self, state: State, name: str) -> Scored:
        others = REFERENCE in state.scored and name != REFERENCE
        arguments = (
            state.recipes[name],
            replace(self.request.images, size=state.setting.size),
            state.setting,
            self.folder(state, name),
            # All of the reference's masks are kept: others are compared with them.
            range(len(self.request.images)) if name == REFERENCE else self.shown,
            self.folder(state, REFERENCE) if others else None,
        )
        log, timeout = self.logs / f"{name}-accuracy.log", self.request.scenario.timeout_s
        with Isolated(name, Scorer, arguments, log, self.progress, timeout) as scorer:
            scored: Scored = scorer.call("score", timeout_s=timeout)
            return scored


TIMED_IMAGES = 4
PAPER_RUNS = 3
LAYER_CALLS = 10


def time_rows(
    state: State,
    request: Request,
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
        timers = _opened(state, request, logs, stack)
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
    state: State, request: Request, logs: Path, stack: contextlib.ExitStack
) -> dict[str, Isolated]:
    setting, timeout = state.setting, request.scenario.timeout_s
    # Several, so that no call sees the input of the one before. A batch repeats one image: what a
    # network costs does not depend on its pixels.
    images = SizedImages.spread(request.images.dataset, setting.size, TIMED_IMAGES)
    inputs = [np.repeat(item.image[None], setting.batch, axis=0) for item in images]
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


RECORD = "bench.json"


class Session:
    """A run of one request.

    Args:
        request: what is asked for.
        progress: shows bars.
        restart: begin anew where a stopped run of this request has left its record.

    Raises:
        InputError: the request cannot be fulfilled at all, or the output folder holds the record
            of a stopped run of another request.
    """

    def __init__(self, request: Request, progress: ProgressBar, restart: bool = False) -> None:
        self._request, self._progress = request, progress
        self._checkpoint = load_checkpoint(request.checkpoint, request.dataset)
        self._sha256 = sha256_of_file(request.checkpoint)
        self._environment = describe_environment()
        fingerprint = str(request.images.dataset.fingerprint())
        self._key = request.key(self._sha256, fingerprint, self._environment)
        self._states = [State(setting, request.names) for setting in request.settings]
        self._overlaps: dict[str, tuple[str, ...]] = {}
        self._peaks: Peaks | None = None
        self._harness: float | None = None
        self._started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        writable_directory(request.output)
        self._work = request.output / f".bench-{self._key}"
        self.continued = not restart and self._take_up()
        if not self.continued:
            self._clear()

    def run(self) -> Report:
        """Do all that is left, and return the record, which is then complete."""
        logs = writable_directory(self._request.output / "logs")
        self._prepare(logs)
        self._refuse_overlaps()
        writable_directory(self._work)
        self._peaks = machine_peaks(self._request, logs, self._progress)
        self._harness = harness_ns(self._request.settings[0].size, logs)
        scoring = Scoring(
            self._request,
            self._checkpoint.labels.categories,
            self._overlaps,
            evenly_spaced(len(self._request.images), self._request.pictures),
            self._work,
            logs,
            self._progress,
        )
        for state in self._states:
            for name in state.runnable:
                scoring.score(state, name)
                self._write()
            time_rows(state, self._request, logs, self._progress, self._write)
        report = replace(self._report(complete=True), pictures=self._pictures(scoring))
        write_record(report, self._request.output / RECORD)
        self._clear()
        if not any(logs.iterdir()):
            logs.rmdir()
        return report

    def _clear(self) -> None:
        """Remove masks and scores, those of an earlier run too."""
        for folder in self._request.output.glob(".bench-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _take_up(self) -> bool:
        """Take the turns of a stopped run; say whether there was one."""
        path = self._request.output / RECORD
        if not path.exists():
            return False
        try:
            before = read_record(path)
        except InputError:
            return False  # of another version: nothing that could be gone on with
        if before.complete:
            return False
        if before.key != self._key:
            raise InputError(
                f"{str(path)!r} is the record of a stopped run of another request",
                "the options of that run, to go on with it",
                "name another --output, or begin anew with --restart",
            )
        self._started = before.started
        for state in self._states:
            for row in before.rows:
                if row.setting == state.setting:
                    state.turns[row.name] = {t.scope: list(t.turns) for t in row.timings}
                    if row.reason:  # it failed: rounds without it do not come again
                        state.reasons[row.name] = row.reason
        return True

    def _prepare(self, logs: Path) -> None:
        by_setting = {state.setting: state for state in self._states}

        def found(setting: Setting, name: str, recipe: Recipe | str) -> None:
            state = by_setting[setting]
            if isinstance(recipe, str):
                state.reasons.setdefault(name, recipe)
            else:
                state.recipes[name] = recipe

        prepared_recipes(self._request, logs, self._progress, found)
        if not any(state.recipes for state in self._states):
            reasons = self._states[0].reasons
            raise InputError(
                "none of the backends can run here: "
                + "; ".join(f"{name}: {reason}" for name, reason in reasons.items()),
                "at least one that can",
            )

    def _refuse_overlaps(self) -> None:
        """Find scored images that calibrated a row; an error unless that is allowed."""
        calibrations = {
            name: recipe.calibration
            for state in self._states
            for name, recipe in state.recipes.items()
            if recipe.calibration and recipe.calibration.image_sha256
        }
        if not calibrations:
            return
        images = self._request.images
        with self._progress("comparing with calibration images", len(images)) as step:
            self._overlaps = overlapping(calibrations, images, step)
        if not self._request.allow_overlap:
            refuse(self._overlaps, len(images), " ".join(images.origin))

    def _pictures(self, scoring: Scoring) -> tuple[Picture, ...]:
        state = self._states[0]
        masks = {name: scoring.folder(state, name) for name in state.scored}
        request, shown = self._request, list(scoring.shown)
        images = replace(request.images, size=state.setting.size)
        return save_pictures(images, shown, masks, request.output)

    def _write(self) -> None:
        write_record(self._report(complete=False), self._request.output / RECORD)

    def _report(self, complete: bool) -> Report:
        request, labels = self._request, self._checkpoint.labels
        scenario = request.scenario
        return Report(
            model=self._checkpoint.model,
            checkpoint=request.checkpoint.name,
            checkpoint_sha256=self._sha256,
            dataset=request.images.dataset.name,
            split=request.images.dataset.split if request.images.labelled else "",
            images=next((s.names for state in self._states for s in state.scored.values()), ()),
            labelled=request.images.labelled,
            classes=labels.classes,
            palette=labels.palette,
            categories=tuple(name for name, _ in labels.categories),
            scenario={
                "name": scenario.name,
                "rounds": scenario.rounds,
                "min_time_s": scenario.min_time_s,
                "most_repeats": scenario.most_repeats,
                "cpu_threads": request.threads,
                "device": request.device,
            },
            environment=self._environment,
            rows=tuple(row for state in self._states for row in state.rows(self._peaks)),
            peaks=self._peaks,
            harness_ns=self._harness,
            started=self._started,
            key=self._key,
            complete=complete,
        )
