"""Rows, and the whole of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bench.record.accuracy import Accuracy
from bench.record.cost import Footprint, Limit, Peaks
from bench.record.timing import Setting, Timing
from dabnet.runtime.layer_time import LayerTime
from dabnet.runtime.runner import RunnerInfo

FORMAT = 3

REFERENCE = "pytorch-fp32"
"""The row that others are compared with."""


@dataclass(frozen=True, slots=True)
class Row:
    """One artifact on one backend in one setting: what ran, how well and how fast.

    A row that could not run, or did not come to its end, has a ``reason``.

    Attributes (those whose name does not say it):
        name: backend and variant, such as ``onnxruntime-int8``.
        info: of what was timed.
        artifact: file name.
        manifest: of the artifact, as JSON holds it; {} without one.
        layers: time by layer, the longest first, where it was asked for.
    """

    name: str
    setting: Setting
    reason: str = ""
    info: RunnerInfo | None = None
    artifact: str = ""
    manifest: dict[str, Any] = field(default_factory=dict)
    accuracy: Accuracy | None = None
    timings: tuple[Timing, ...] = ()
    footprint: Footprint = field(default_factory=Footprint)
    limit: Limit | None = None
    layers: tuple[LayerTime, ...] = ()

    def timing(self, scope: str) -> Timing | None:
        """The timing of that scope, if it has one with samples."""
        found = (timing for timing in self.timings if timing.scope == scope and timing.latency)
        return next(found, None)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture beside the record.

    Attributes:
        image: name of the image of the data set.
        shows: ``image``, ``truth``, a row's name, or ``NAME differs``: where a row and the
            reference differ.
        file: path, relative to the record's folder.
    """

    image: str
    shows: str
    file: str


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run.

    Attributes:
        model, checkpoint, checkpoint_sha256: what was measured.
        dataset, split: what accuracy was measured on; of a folder of images its name and "".
        images: names of the images that were scored.
        labelled: whether they have labels.
        classes, palette: names and colours (RGB), in the order of each ``class_iou``.
        categories: in the order of each ``category_iou``.
        scenario: of the timing, by the names of ``bench.scenario.Scenario``.
        environment: machine and library versions, by name.
        peaks: of the device that computed.
        rows: by setting, and within it in the order in which they were asked for.
        pictures: beside the record.
        harness_ns: what the timer itself adds to a call (median of the null runner).
        started: date and time, ISO 8601, UTC.
        key: of everything that was asked for; a stopped run goes on only under the same key.
        complete: False where the run was stopped before its end.
    """

    model: str
    checkpoint: str
    checkpoint_sha256: str
    dataset: str
    split: str
    images: tuple[str, ...]
    labelled: bool
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    categories: tuple[str, ...]
    scenario: dict[str, Any]
    environment: dict[str, str]
    rows: tuple[Row, ...]
    peaks: Peaks | None = None
    pictures: tuple[Picture, ...] = ()
    harness_ns: float | None = None
    started: str = ""
    key: str = ""
    complete: bool = True
    format: int = FORMAT

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Those of the rows, each once, in order."""
        return tuple(dict.fromkeys(row.setting for row in self.rows))

    def reference(self, setting: Setting) -> Row | None:
        """The row that the others of a setting are compared with."""
        rows = (row for row in self.rows if row.setting == setting and row.name == REFERENCE)
        return next(rows, None)
