"""The request of a run: everything that decides its numbers, and the scenario of its timing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.candidates import Candidate
from bench.machine.environment import lasting_facts
from bench.record import Setting
from bench.record.timing import CAMERA, SEARCH
from dabnet.data.images import SizedImages
from dabnet.device import Device
from dabnet.errors import InputError
from dabnet.head import MASK
from dabnet.runtime.runner import SCOPES

NAMES = ("latency", "throughput", "camera")
LEAST_ROUNDS_TO_TARGET = 10
"""A narrow interval of fewer rounds is narrow by chance, and holds the ratio less often."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """How calls are made and counted."""

    # ``latency``: one call at a time; ``throughput``: batches and concurrent streams; ``camera``:
    # one call at a time, and frames that arrive by a clock of their own.
    name: str = "latency"
    scopes: tuple[str, ...] = SCOPES  # of each row; see ``dabnet.runtime.runner``
    rounds: int = 30  # turns of each row in each scope, at least 2: one round has no interval
    min_time_s: float = 10.0  # of all turns of a row in one scope; a turn has at least 3 calls
    warmup_s: float = 10.0  # maximum time of the warm-up of each row
    most_repeats: int = 5  # maximum number of rounds that are repeated because of a disturbance
    # Maximum time of one answer of a row's process; loading an engine for a large batch, or
    # compiling, may take minutes.
    timeout_s: float = 900.0
    seed: int = 0  # of the order of the rows, and of the phases of cameras
    fps: float = 30.0  # of each camera
    cameras: int = 1
    # With a width, rounds go on until the 95 % interval of every speed ratio is no wider (its upper
    # end less its lower end, as a share of the ratio), or rounds took that many minutes.
    target_width: float | None = None
    max_minutes: float = 60.0

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise InputError(f"scenario {self.name!r}", "one of " + ", ".join(NAMES))
        if unknown := set(self.scopes) - set(SCOPES):
            raise InputError(f"scope {min(unknown)!r}", "one of " + ", ".join(SCOPES))
        if self.rounds < 2:
            raise InputError(f"--rounds {self.rounds}", "at least 2: one round has no interval")
        if self.name == "camera" and "host" not in self.scopes:
            raise InputError("the scenario camera without host", "its calls are of the scope host")
        if self.target_width is not None and self.rounds < LEAST_ROUNDS_TO_TARGET:
            expected = f"at least {LEAST_ROUNDS_TO_TARGET}"
            raise InputError(f"--rounds {self.rounds} with --target-width", expected)

    @property
    def turn_s(self) -> float:
        return self.min_time_s / self.rounds

    @property
    def window_scopes(self) -> tuple[str, ...]:
        """Scopes whose turns are windows of frames that arrive."""
        return (CAMERA, SEARCH) if self.name == "camera" else ()

    def facts(self) -> dict[str, Any]:
        """What the record holds of it."""
        named = ["name", "rounds", "min_time_s", "most_repeats"]
        named += ["fps", "cameras"] if self.name == "camera" else []
        named += ["target_width", "max_minutes"] if self.target_width is not None else []
        return {name: getattr(self, name) for name in named}


@dataclass(frozen=True, slots=True)
class Request:
    """Everything that decides what a run measures, and where it leaves it."""

    candidates: tuple[Candidate, ...]
    names: tuple[str, ...]  # rows of each network, the reference first
    settings: tuple[Setting, ...]  # one table each
    images: SizedImages  # scored, at the first setting's size; of their data set some are timed
    data_dir: Path | None  # folder of the data set, whose training images calibrate
    scenario: Scenario
    calibration_images: int  # number of training images for INT8
    device: Device  # that computes
    threads: int  # CPU threads of each backend, so that none has more than another
    cache: Path  # folder of exported artifacts and of the machine's peaks
    output: Path  # folder of the record and its reports
    allow_overlap: bool = False  # score a row on images that calibrated it, and mark it
    layers: bool = False  # take each row's profile by layer
    pictures: int = 0  # number of images to show
    head: str = MASK  # of all rows but those of files: ``mask`` or ``mask+confidence``

    def key(self, environment: Mapping[str, str]) -> str:
        """A number that only a run of the same request on the same machine has."""
        asked = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)} | {
            "candidates": [replace(c, path=Path()) for c in self.candidates],
            "images": (self.images.description, self.images.size),
            "fingerprint": str(self.images.dataset.fingerprint()),
            "cache": "",
            "output": "",
            "environment": lasting_facts(environment),
        }
        text = json.dumps(asked, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
