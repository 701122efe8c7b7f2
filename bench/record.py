"""The record of a run: one structure, from which every table and file is written."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from bench.statistics import Latency
from dabnet.intervals import Interval
from dabnet.runtime.runner import RunnerInfo

FORMAT = 2


@dataclass(frozen=True, slots=True)
class Row:
    """One artifact on one backend: what ran, in which scope, how well and how fast.

    A backend that could not run has a ``reason`` and nothing else; shares are in 0…1.

    Attributes (those whose name does not say it):
        info: of what was timed.
        arithmetic: in which int8 the accuracy was taken (``RunnerInfo.arithmetic``); where it is
            not that of ``info``, the two ``timed_`` attributes say how far what was timed differs.
        timed_agreement: share of pixels on which the timed masks equal the scored ones.
        timed_miou: mean IoU of the timed masks.
        calibrated_on: which images the INT8 ranges are of, in words; "" for none.
        overlap: names of scored images among them.
    """

    name: str
    scope: str
    reason: str = ""
    info: RunnerInfo | None = None
    artifact: str = ""
    artifact_bytes: int = 0
    miou: Interval | None = None
    miou_difference: Interval | None = None
    class_iou: tuple[float | None, ...] = ()
    agreement: float | None = None
    arithmetic: str = ""
    timed_agreement: float | None = None
    timed_miou: float | None = None
    calibrated_on: str = ""
    overlap: tuple[str, ...] = ()
    latency: Latency | None = None
    speed_ratio: Interval | None = None
    verdict: str = ""
    rounds_ns: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run.

    Attributes:
        model, checkpoint, checkpoint_sha256: what was measured.
        dataset, split, images: what accuracy was measured on.
        classes: names, in the order of each row's ``class_iou``.
        size: (height, width) in pixels, of timing and accuracy alike.
        scenario: of the timing, by the names of ``bench.timing.Scenario``.
        environment: machine and library versions, by name.
        foreign_cores: cores that other processes kept busy during the timing; None if unknown.
    """

    model: str
    checkpoint: str
    checkpoint_sha256: str
    dataset: str
    split: str
    images: int
    classes: tuple[str, ...]
    size: tuple[int, int]
    scenario: dict[str, Any]
    environment: dict[str, str]
    rows: tuple[Row, ...]
    foreign_cores: float | None = None
    format: int = FORMAT

    def to_json(self) -> str:
        """Return everything, raw samples included, as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False)
