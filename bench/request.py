"""What a run was asked for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.image_set import ImageSet
from bench.record import Setting
from bench.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Request:
    """Everything that decides what a run measures, and where it leaves it.

    Attributes:
        checkpoint: the file.
        dataset: whose checkpoint it is, where it does not say so itself.
        names: rows, the reference first.
        settings: sizes, batches and streams, one table each.
        images: what is scored; some of them are also the ones that are timed.
        scenario: of the timing.
        calibration_images: of the training split, for INT8.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads of each backend, so that none has more than another.
        cache: folder of exported artifacts and of the machine's peaks.
        output: folder of the record and its reports.
        allow_overlap: score a row on images that calibrated it, and mark it.
        layers: take each row's profile by layer.
        pictures: how many images to show.
    """

    checkpoint: Path
    dataset: str | None
    names: tuple[str, ...]
    settings: tuple[Setting, ...]
    images: ImageSet
    scenario: Scenario
    calibration_images: int
    device: str
    threads: int
    cache: Path
    output: Path
    allow_overlap: bool = False
    layers: bool = False
    pictures: int = 0

    def key(self, checkpoint_sha256: str, fingerprint: str, environment: Mapping[str, str]) -> str:
        """A number that only a run of the same request on the same machine has.

        Args:
            checkpoint_sha256: of the file.
            fingerprint: of the images (``Dataset.fingerprint``).
            environment: as ``describe_environment`` returns it.
        """
        asked = dataclasses.asdict(self) | {
            "checkpoint": checkpoint_sha256,
            "fingerprint": fingerprint,
            "cache": "",
            "output": "",
            # What a moment's load was is no part of the machine.
            "environment": {k: v for k, v in environment.items() if k != "load average"},
        }
        text = json.dumps(asked, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
