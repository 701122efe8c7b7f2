"""Steps of a check: each a process with a limit of time, and a verdict that stops no other step."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from dabnet.errors import DabnetError, MissingPackage
from dabnet.records import Codec

OK = "ok"
FAILED = "failed"
TIMED_OUT = "timed out"
NOT_INSTALLED = "not installed"
NOT_ACCEPTED = "not accepted"  # by the product, such as TensorRT-RTX and a data-centre card
NO_TIME = "no time left"
INTERRUPTED = "interrupted"
SOUND = (OK, NOT_INSTALLED, NOT_ACCEPTED)
_RUNNING = "running"

OUTCOME_FILE, LIMIT_S = "DABNET_STEP_OUTCOME", "DABNET_STEP_LIMIT_S"
"""Variables that tell a step's process where its outcome goes, and when it will be ended. It need
not write an outcome."""

Figures = dict[str, float | int | str]
"""What a step measured, by a name with its unit."""

_SHORTEST_S = 3.0  # no step does anything in less
_TRACEBACK_S, _KILL_S = 3.0, 10.0  # how long a process may take to end after a signal
_EXTRAS = {"tensorrt_rtx": "rtx", "pytest": "dev"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step says of itself; it may write it again with every figure."""

    verdict: str = _RUNNING
    reason: str = ""  # one line
    figures: Figures = field(default_factory=dict)


OUTCOME = Codec(Outcome, "step's outcome", "tools/gpu_check.py", "run it again")


@dataclass(frozen=True, slots=True)
class Step:
    """A program to run."""

    name: str
    command: tuple[str, ...]
    limit_s: float
    packages: tuple[str, ...] = ()  # that must be there
    after: str = ""  # an earlier step: what that one found missing, this one need not look for
    later: float = 0.0  # share of the whole time that is kept for the steps behind it


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step that was run, or was not for a reason."""

    name: str
    verdict: str
    reason: str
    seconds: float
    figures: Figures


class StepRunner:
    """Runs steps in order.

    Args:
        folder: where they work, and keep their outcomes; it exists.
        log: file that all output goes to.
        environment: of the processes.
        minutes: limit of all steps together.

    Attributes:
        records: of the steps so far, by name.
    """

    def __init__(
        self, folder: Path, log: Path, environment: Mapping[str, str], minutes: float
    ) -> None:
        self.records: dict[str, StepRecord] = {}
        self._folder, self._log, self._environment = folder, log, environment
        self._minutes, self._end_s = minutes, time.monotonic() + 60 * minutes

    def run(self, step: Step) -> StepRecord:
        """Run a step; Ctrl-C ends it, and makes it ``interrupted``."""
        start_s = time.monotonic()
        outcome = self._without_running(step) or self._ran(step)
        seconds = round(time.monotonic() - start_s, 1)
        record = StepRecord(step.name, outcome.verdict, outcome.reason, seconds, outcome.figures)
        self.records[step.name] = record
        return record

    def _without_running(self, step: Step) -> Outcome | None:
        for package in step.packages:
            if find_spec(package) is None:
                return Outcome(NOT_INSTALLED, str(_missing(package)))
        before = self.records.get(step.after)
        if before and before.verdict in (NOT_INSTALLED, NOT_ACCEPTED):
            return Outcome(before.verdict, before.reason)
        if self._left_s(step) < _SHORTEST_S:
            later = ", beside the share of later steps" if step.later else ""
            return Outcome(NO_TIME, f"nothing was left of the {self._minutes:g} minutes{later}")
        return None

    def _left_s(self, step: Step) -> float:
        """Seconds that the step may take at most: later steps are sure of their share."""
        return self._end_s - time.monotonic() - 60 * self._minutes * step.later

    def _ran(self, step: Step) -> Outcome:
        limit_s = min(step.limit_s, self._left_s(step))
        file = self._folder / f"{step.name}.json"
        told_s = f"{limit_s:.1f}"
        environment = {**self._environment, OUTCOME_FILE: str(file), LIMIT_S: told_s}
        with self._log.open("ab") as log:
            log.write(f"\n=== {step.name}, at most {limit_s:.0f} s\n".encode())
            log.flush()
            begin, ended = log.tell(), ""
            with _group(step, self._folder, environment, log) as process:
                try:
                    process.wait(limit_s)
                except subprocess.TimeoutExpired:
                    ended = TIMED_OUT if limit_s == step.limit_s else NO_TIME
                    # Python then writes to the log what each thread was doing (PYTHONFAULTHANDLER).
                    _signal(process, signal.SIGABRT)
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_TRACEBACK_S)
                except KeyboardInterrupt:
                    ended = INTERRUPTED
        told = _told(file)
        if not ended:
            return _judged(told, process.returncode, self._log, begin)
        reasons = {
            TIMED_OUT: f"it did not end within {limit_s:.0f} s",
            NO_TIME: f"{limit_s:.0f} s of the {self._minutes:g} minutes were left for it",
        }
        return replace(told, verdict=ended, reason=reasons.get(ended, ""))


def _missing(package: str) -> MissingPackage:
    fix = f"pip install {package.replace('_', '-')}" if package.startswith("onnxruntime_ep") else ""
    return MissingPackage(package, _EXTRAS.get(package, "gpu"), fix)


@contextmanager
def _group(
    step: Step, folder: Path, environment: dict[str, str], log: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """The step's process in a group of its own, of which nothing is left after the block."""
    process = subprocess.Popen(
        step.command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        _signal(process, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # one that waits in the driver cannot be killed
            process.wait(_KILL_S)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _told(file: Path) -> Outcome:
    try:
        return OUTCOME.read(file) if file.exists() else Outcome()
    except DabnetError as error:
        return Outcome(FAILED, str(error))


def _judged(told: Outcome, code: int, log: Path, begin: int) -> Outcome:
    """The outcome of a process that ended by itself: what it told, unless it crashed after that."""
    if crashed := ended_by(code):
        return replace(told, verdict=FAILED, reason=crashed)
    if told.verdict != _RUNNING:
        return told
    if code == 0:
        return replace(told, verdict=OK)
    with log.open("rb") as output:
        output.seek(begin)
        lines = output.read().decode(errors="replace").split("\n")
    said = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return replace(told, verdict=FAILED, reason=f"exit code {code}: {said[:300]}")


def ended_by(code: int) -> str:
    """``ended by SIGSEGV`` for the exit code of a process that a signal ended, "" for others."""
    if code >= 0:
        return ""
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"ended by {signal.Signals(-code).name}{hint}"
