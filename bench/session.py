"""One run: prepare every row, score it, time it among the others, and keep the record of it.

The record on the disk is valid after each step: a run that is stopped leaves what it has, and the
same command goes on from there.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from bench.backend import Recipe
from bench.harness import harness_ns, machine_peaks
from bench.machine.environment import describe_environment
from bench.overlap import overlapping, refuse
from bench.pictures import save_pictures
from bench.preparation import prepared_recipes
from bench.record import Peaks, Picture, Report, Setting
from bench.record_file import read_record, write_record
from bench.request import Request
from bench.scoring_phase import Scoring
from bench.state import State
from bench.timing_phase import time_rows
from dabnet.checkpoint import load_checkpoint
from dabnet.console import ProgressBar
from dabnet.data.dataset import evenly_spaced
from dabnet.errors import InputError
from dabnet.files import sha256_of_file, writable_directory

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
        self._dataset = request.images.open()
        self._key = request.key(self._sha256, str(self._dataset.fingerprint()), self._environment)
        self._indices = request.images.indices(self._dataset)
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
            self._indices,
            evenly_spaced(len(self._indices), self._request.pictures),
            self._work,
            logs,
            self._progress,
        )
        for state in self._states:
            for name in state.runnable:
                scoring.score(state, name)
                self._write()
            time_rows(state, self._request, self._dataset, logs, self._progress, self._write)
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
        images = len(self._indices)
        with self._progress("comparing with calibration images", images) as step:
            self._overlaps = overlapping(calibrations, self._dataset, images, step)
        if not self._request.allow_overlap:
            split = f"{self._dataset.name} {self._dataset.split}".strip()
            refuse(self._overlaps, images, split)

    def _pictures(self, scoring: Scoring) -> tuple[Picture, ...]:
        state = self._states[0]
        masks = {name: scoring.folder(state, name) for name in state.scored}
        request, shown = self._request, list(scoring.shown)
        return save_pictures(request.images, state.setting.size, shown, masks, request.output)

    def _write(self) -> None:
        write_record(self._report(complete=False), self._request.output / RECORD)

    def _report(self, complete: bool) -> Report:
        request, labels = self._request, self._checkpoint.labels
        scenario = request.scenario
        return Report(
            model=self._checkpoint.model,
            checkpoint=request.checkpoint.name,
            checkpoint_sha256=self._sha256,
            dataset=self._dataset.name,
            split=self._dataset.split,
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
