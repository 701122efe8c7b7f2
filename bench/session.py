"""One run: prepare every row, score it, time it among the others, and keep the record of it.

The record on disk is valid after each step: a run that is stopped leaves what it has, and the same
command continues from there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from bench.isolation import Isolated, ProcessFailed
from bench.machine.environment import describe_environment
from bench.machine.peaks import PeakMeter
from bench.machine.telemetry import Monitor, marks
from bench.measure.accuracy import Scored, Scorer
from bench.measure.overlap import Overlaps, overlapping, refuse
from bench.measure.preparation import prepared
from bench.measure.request import Request
from bench.measure.rounds import Interleaved
from bench.measure.timer import Timer, harness_ns
from bench.pictures import FOLDER as PICTURES
from bench.pictures import save_pictures
from bench.record import PAPER, Footprint, Peaks, Picture, Report, Turn
from bench.record.file import read_record, write_record
from bench.report.write import RECORD, check_reports
from bench.state import RowState, State
from dabnet import outputs
from dabnet.console import ProgressBar
from dabnet.data.dataset import evenly_spaced
from dabnet.data.images import SizedImages
from dabnet.errors import BackendUnavailable, InputError
from dabnet.files import existing_directory, writable_directory, writable_targets
from dabnet.runtime.cuda import open_device_memory

LOGS = "logs"
TIMED_IMAGES = 4
PAPER_RUNS = 3
LAYER_CALLS = 10


def check_outputs(folder: Path) -> None:
    """Raise if a run in ``folder``, which may be missing, would replace what is not of a run."""
    check_reports(folder)
    # Beside a record they are those of the run that wrote it.
    kind = None if (folder / RECORD).exists() else outputs.PICTURE
    for name, pattern, kinds in ((PICTURES, "[0-9]*.jpg", kind), (LOGS, "*.log", None)):
        if os.path.lexists(folder / name):
            existing_directory(folder / name, "a folder of dabnet-bench")
            found = (path.name for path in (folder / name).glob(pattern))
            writable_targets(folder / name, dict.fromkeys(found, kinds))


class Session:
    """A run of one request; with ``restart`` anew, even if it was stopped before.

    Attributes:
        continued: whether it continues a stopped run.

    Raises:
        InputError: the request cannot be fulfilled at all, or the output folder holds the record
            of a stopped run of another request.
    """

    def __init__(self, request: Request, progress: ProgressBar, restart: bool = False) -> None:
        self._request, self._progress = request, progress
        self._environment = describe_environment(request.device.index)
        self._key = request.key(self._environment)
        self._states = [State.of(s, request.candidates, request.names) for s in request.settings]
        self._rows = [row for state in self._states for row in state.rows.values()]
        self._overlaps: Overlaps = {}
        self._peaks: Peaks | None = None
        self._harness: float | None = None
        self._started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        # Images whose masks are kept for pictures.
        self._shown = evenly_spaced(len(request.images), request.pictures)
        self._work = writable_directory(request.output) / f".bench-{self._key}"
        self._logs = request.output / LOGS
        self.continued = not restart and self._take_up()
        if not self.continued:
            self._clear()

    def run(self) -> Report:
        """Do all that is left, and return the record, which is then complete."""
        writable_directory(self._logs)
        self._prepare()
        self._find_overlaps()
        writable_directory(self._work)
        self._peaks = self._measure_machine()
        self._harness = harness_ns(self._request.settings[0].size, self._logs)
        for state in self._states:
            for row in state.scorable:
                self._score(state, row)
                self._write()
            self._time(state)
            for row in state.of_paper:
                self._repeat_paper(row)
        pictures = self._pictures(self._states[0])
        report = replace(self._report(complete=True), pictures=pictures)
        write_record(report, self._request.output / RECORD)
        self._clear()
        if not any(self._logs.iterdir()):
            self._logs.rmdir()
        return report

    def _pictures(self, state: State) -> tuple[Picture, ...]:
        scored = [row for row in state.rows.values() if row.scored]
        masks = {row.name: self._masks(row) for row in scored}
        references = {row.name: r.name for row in scored if (r := state.own_reference(row))}
        request = self._request
        return save_pictures(request.images, self._shown, masks, references, request.output)

    def _clear(self) -> None:
        """Remove masks and scores, also those of an earlier run."""
        for folder in self._request.output.glob(".bench-" + "[0-9a-f]" * 16):
            shutil.rmtree(folder, ignore_errors=True)

    def _take_up(self) -> bool:
        """Take the turns of a stopped run; False if there is none."""
        path = self._request.output / RECORD
        try:
            before = read_record(path)
        except InputError:
            return False  # none, or of another version: nothing to continue
        if before.complete:
            return False
        if before.key != self._key:
            raise InputError(
                f"{str(path)!r} is the record of a stopped run of another request",
                "the options of that run, to continue it",
                "name another --output, or begin anew with --restart",
            )
        self._started = before.started
        for known, row in zip(self._rows, before.rows, strict=True):
            known.turns = {timing.scope: list(timing.turns) for timing in row.timings}
            known.reason = row.reason  # of a row that failed: it has no part in further rounds
        return True

    def _prepare(self) -> None:
        rows = self._rows
        asked = [(row.file_name, row.candidate, row.on, row.setting) for row in rows]
        found = prepared(self._request, asked, self._logs, self._progress)
        for row, recipe in zip(rows, found, strict=True):
            if isinstance(recipe, str):
                row.reason = row.reason or recipe
            else:
                row.recipe = recipe
        if not any(row.recipe for row in rows):
            reasons = "; ".join(dict.fromkeys(f"{row.name}: {row.reason}" for row in rows))
            raise InputError(f"none of the backends can run here: {reasons}", "at least one")

    def _find_overlaps(self) -> None:
        hashes = {}
        for row in self._rows:
            manifest = row.recipe.manifest if row.recipe else None
            if manifest and manifest.calibration and manifest.calibration.image_sha256:
                hashes[row.name] = frozenset(manifest.calibration.image_sha256)
        if hashes:
            images = self._request.images
            with self._progress("comparing with calibration images", len(images)) as step:
                self._overlaps = overlapping(hashes, images, step)
            if not self._request.allow_overlap:
                refuse(self._overlaps, images)

    def _measure_machine(self) -> Peaks | None:
        request, log = self._request, self._logs / "machine.log"
        arguments = (str(request.device), request.threads, request.cache)
        try:
            with Isolated("machine", PeakMeter, arguments, log, self._progress) as meter:
                peaks: Peaks = meter.call("peaks")
        except ProcessFailed:
            return None
        return peaks

    def _masks(self, row: RowState) -> Path:
        """Folder of a row's masks and scores; what it holds is not scored again."""
        height, width = row.setting.size
        return self._work / f"{height}x{width}-{row.setting.batch}" / row.file_name

    def _score(self, state: State, row: RowState) -> None:
        """Score one row in a process of its own, or take what was kept of it."""
        request, timeout = self._request, self._request.scenario.timeout_s
        images, masks = request.images, writable_directory(self._masks(row))
        reference = state.own_reference(row)
        if reference and reference.scored is None:
            reference = None
        kept = masks / "scores.npz"
        if kept.is_file():
            row.scored = Scored.load(kept)
        else:
            # All of the reference's masks are kept: others are compared with them.
            numbers = range(len(images)) if row.is_reference else self._shown
            theirs = self._masks(reference) if reference else None
            sized = replace(images, size=row.setting.size)
            arguments = (row.recipe, sized, row.setting.batch, masks, numbers, theirs)
            log = self._logs / f"{row.file_name}-accuracy.log"
            try:
                with Isolated(row.name, Scorer, arguments, log, self._progress, timeout) as scorer:
                    scored: Scored = scorer.call("score", timeout_s=timeout)
            except ProcessFailed as error:
                row.reason = str(error)
                return
            row.scored = scored
            scored.save(kept)
        categories = images.dataset.labels.categories
        overlap = self._overlaps.get(row.name, ())
        seen = images.seen_by(row.candidate.trained_on)
        row.summarise(reference, images.labelled, categories, overlap, seen)

    def _time(self, state: State) -> None:
        """Warm up every row, do the rounds that are left, and see what each row cost beside time.

        All are open at a time, and one runs. A row that fails gets a reason, and the others go on.
        """
        with contextlib.ExitStack() as stack:
            watch = Monitor(self._pci_bus_id())
            stack.callback(watch.close)
            timers = self._opened(state, stack)
            turns = {name: state.rows[name].turns for name in timers}
            scenario, base = self._request.scenario, state.reference
            rounds = Interleaved(timers, scenario, watch, turns, base.name if base else None)
            with self._progress("warming up", len(timers), "rows") as step:
                rounds.warm_up(step)
            many = rounds.left if scenario.target_width is None else None
            with self._progress(f"timing {state.setting}", many, "rounds") as step:

                def after_round() -> None:
                    step()
                    self._write()

                rounds.run(after_round)
            for name, timer in timers.items():
                state.rows[name].reason = rounds.failures.get(name, "")
                if timer.alive:
                    self._look_at(state.rows[name], timer, watch)

    def _pci_bus_id(self) -> str | None:
        """Of the GPU that computes; None for the CPU, or where no package can ask CUDA."""
        device = self._request.device
        with contextlib.suppress(BackendUnavailable):
            if device.is_gpu:
                with contextlib.closing(open_device_memory(device.index)) as card:
                    return card.pci_bus_id
        return None

    def _opened(self, state: State, stack: contextlib.ExitStack) -> dict[str, Isolated]:
        setting, timeout = state.setting, self._request.scenario.timeout_s
        # Several, so that no call sees the input of the one before. A batch repeats one image: what
        # a network costs does not depend on its pixels.
        images = SizedImages.spread(self._request.images.dataset, setting.size, TIMED_IMAGES)
        inputs = [np.repeat(item.image[None], setting.batch, axis=0) for item in images]
        timers: dict[str, Isolated] = {}
        for row in state.runnable:
            arguments = (row.recipe, inputs, setting.streams)
            log = self._logs / f"{row.file_name}-timing.log"
            try:
                timer = Isolated(row.name, Timer, arguments, log, timeout_s=timeout)
                row.opened = stack.enter_context(timer).call("opened")
                row.find_limit(self._peaks)
                timers[row.name] = timer
            except ProcessFailed as error:
                row.reason = str(error)
        return timers

    def _look_at(self, row: RowState, timer: Isolated, watch: Monitor) -> None:
        if row.opened is None or row.recipe is None:
            return
        try:
            row.footprint = Footprint(
                row.recipe.artifact.stat().st_size,
                row.opened.load_s,
                row.opened.first_inference_s,
                timer.call("host_peak_bytes"),
                watch.device_bytes(timer.pid),
            )
            if self._request.layers:
                row.layers = timer.call("layer_times", LAYER_CALLS)
        except ProcessFailed as error:
            row.note = str(error)  # the row has its times: it lacks this alone

    def _repeat_paper(self, row: RowState) -> None:
        """Time the published protocol, a few times for its interval."""
        if row.recipe is None:
            return
        log = self._logs / f"{row.file_name}.log"
        turns = []
        with contextlib.ExitStack() as stack:
            watch = Monitor(self._pci_bus_id())
            stack.callback(watch.close)
            try:
                paper = stack.enter_context(Isolated(row.name, row.recipe.opened, (), log))
                for number in range(PAPER_RUNS):
                    turns.append(_paper_turn(paper, watch, number))
            except ProcessFailed as error:
                row.reason = str(error)
                return
        row.turns = {PAPER: turns}

    def _write(self) -> None:
        write_record(self._report(complete=False), self._request.output / RECORD)

    def _report(self, complete: bool) -> Report:
        request, images = self._request, self._request.images
        labels = images.dataset.labels
        return Report(
            subjects=tuple(candidate.subject for candidate in request.candidates),
            dataset=images.dataset.name,
            split=images.dataset.split if images.labelled else "",
            images=next((row.scored.names for row in self._rows if row.scored), ()),
            labelled=images.labelled,
            classes=labels.classes,
            palette=labels.palette,
            categories=tuple(name for name, _ in labels.categories),
            scenario={
                **request.scenario.facts(),
                "cpu_threads": request.threads,
                "device": str(request.device),
            },
            environment=self._environment,
            rows=tuple(row for state in self._states for row in state.record()),
            peaks=self._peaks,
            harness_ns=self._harness,
            started=self._started,
            key=self._key,
            complete=complete,
        )


def _paper_turn(paper: Isolated, watch: Monitor, number: int) -> Turn:
    """One measurement by the published protocol, with its marks as any other turn."""
    watch.start((paper.pid,))
    began = time.perf_counter()
    seconds: float = paper.call("run")
    # Its warm-up is in the telemetry: whose energy is not that of the calls that count.
    telemetry = replace(watch.stop(0.0), gpu_energy_j=None, cpu_energy_j=None)
    found = marks(telemetry, time.perf_counter() - began)
    return Turn(number, 0.0, seconds, (round(1e9 * seconds),), telemetry, found)
