"""The request of a run: everything that decides its numbers, and the scenario of its timing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.record import Setting
from dabnet.data.images import SizedImages
from dabnet.errors import InputError
from dabnet.runtime.runner import SCOPES

NAMES = ("latency", "throughput")


@dataclass(frozen=True, slots=True)
class Scenario:
    """How calls are made and counted.

    Attributes:
        name: ``latency``: one call at a time; ``throughput``: batches and concurrent streams.
        scopes: of each row; see ``dabnet.runtime.runner``.
        rounds: turns of each row in each scope, at least 2: one round has no interval.
        min_time_s: minimum time of all turns of a row in one scope; a turn has at least 3 calls.
        warmup_s: maximum time of the warm-up of each row.
        most_repeats: maximum number of rounds that are repeated because something disturbed them.
        timeout_s: maximum time of one answer of a row's process; loading an engine for a large
            batch, or compiling, may take minutes.
        seed: of the order of the rows.
    """

    name: str = "latency"
    scopes: tuple[str, ...] = SCOPES
    rounds: int = 10
    min_time_s: float = 10.0
    warmup_s: float = 10.0
    most_repeats: int = 5
    timeout_s: float = 900.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise InputError(f"scenario {self.name!r}", "one of " + ", ".join(NAMES))
        if unknown := set(self.scopes) - set(SCOPES):
            raise InputError(f"scope {min(unknown)!r}", "one of " + ", ".join(SCOPES))
        if self.rounds < 2:
            raise InputError(f"{self.rounds} rounds", "at least 2: one round has no interval")

    @property
    def turn_s(self) -> float:
        """Seconds of one turn."""
        return self.min_time_s / self.rounds


@dataclass(frozen=True, slots=True)
class Request:
    """Everything that decides what a run measures, and where it leaves it.

    Attributes:
        checkpoint: the file.
        dataset: of a checkpoint that does not name its own.
        names: rows, the reference first.
        settings: sizes, batches and streams, one table each.
        images: scored, at the first setting's size; images of their data set are also timed.
        data_dir: folder of the data set, whose training images calibrate.
        scenario: of the timing.
        calibration_images: number of training images for INT8.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads of each backend, so that none has more than another.
        cache: folder of exported artifacts and of the machine's peaks.
        output: folder of the record and its reports.
        allow_overlap: score a row on images that calibrated it, and mark it.
        layers: take each row's profile by layer.
        pictures: number of images to show.
    """

    checkpoint: Path
    dataset: str | None
    names: tuple[str, ...]
    settings: tuple[Setting, ...]
    images: SizedImages
    data_dir: Path | None
    scenario: Scenario
    calibration_images: int
    device: str
    threads: int
    cache: Path
    output: Path
    allow_overlap: bool = False
    layers: bool = False
    pictures: int = 0

    def key(self, checkpoint_sha256: str, environment: Mapping[str, str]) -> str:
        """A number that only a run of the same request on the same machine has.

        Args:
            checkpoint_sha256: of the file.
            environment: as ``describe_environment`` returns it.
        """
        asked = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)} | {
            "checkpoint": checkpoint_sha256,
            "images": (self.images.description, self.images.size),
            "fingerprint": str(self.images.dataset.fingerprint()),
            "cache": "",
            "output": "",
            # The load of a moment is no part of the machine.
            "environment": {k: v for k, v in environment.items() if k != "load average"},
        }
        text = json.dumps(asked, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
