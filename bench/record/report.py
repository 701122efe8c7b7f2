"""A row (its accuracy, cost and limit) and the report of a whole run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bench.record.timing import Setting, Timing
from dabnet.intervals import Interval
from dabnet.runtime.runner import LayerTime, RunnerInfo

FORMAT = 3

REFERENCE = "pytorch-fp32"
"""The row that others are compared with."""

PAPER = "paper"
"""Scope and variant of the published protocol (``bench.measure.paper``)."""

UNKNOWN = "unknown images"
"""``Accuracy.calibrated_on`` where the images cannot be compared with those that are scored."""


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy at one size of the labels; shares in 0…1.

    Attributes:
        miou: mean of the classes' IoU.
        miou_difference: to the reference, paired by image; None for the reference itself.
        class_iou: in the order of ``Report.classes``; None for a class that does not occur.
        category_iou: in the order of ``Report.categories``.
        pixel_accuracy: share of labelled pixels that are right.
        hits, unions: pixels per image (outer) and class (inner): their sums give each IoU.
    """

    miou: Interval
    miou_difference: Interval | None
    class_iou: tuple[float | None, ...]
    category_iou: tuple[float | None, ...]
    pixel_accuracy: float
    hits: tuple[tuple[int, ...], ...]
    unions: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Quality of one row's masks.

    Attributes:
        score: at the size that is timed; None without labels.
        native_score: with the mask enlarged (nearest pixel) to the size of the labels; None if that
            is the size that is timed.
        agreement: per image the share of pixels equal to the reference's.
        arithmetic: int8 arithmetic of the scored masks (``RunnerInfo.arithmetic``). If other
            arithmetic was timed, the two ``timed_`` attributes say how far that differs.
        timed_agreement: share of pixels on which the timed masks equal the scored ones.
        timed_miou: mean IoU of the timed masks.
        calibrated_on: images of the INT8 ranges, in words; "" for none; see ``UNKNOWN``.
        overlap: names of the scored images among them.
    """

    score: Score | None = None
    native_score: Score | None = None
    agreement: tuple[float, ...] | None = None
    arithmetic: str = ""
    timed_agreement: float | None = None
    timed_miou: float | None = None
    calibrated_on: str = ""
    overlap: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Footprint:
    """Cost of a row beside time.

    Attributes:
        artifact_bytes: size of the file; 0 if unknown.
        load_s: from the file to a runner.
        first_inference_s: the first call after loading.
        host_peak_bytes, device_peak_bytes: maximum memory of its process; of the GPU by NVML.
    """

    artifact_bytes: int = 0
    load_s: float | None = None
    first_inference_s: float | None = None
    host_peak_bytes: int | None = None
    device_peak_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Peaks:
    """Peak rates of a device, measured by ``bench.machine.peaks``.

    Attributes:
        device: its name.
        bytes_per_s: of its memory, reads and writes together.
        multiply_adds_per_s: by type: ``fp32``, ``fp16``, ``int8``, those that were measured.
        measured: date and time, ISO 8601.
    """

    device: str
    bytes_per_s: float
    multiply_adds_per_s: dict[str, float]
    measured: str


@dataclass(frozen=True, slots=True)
class Limit:
    """Minimum time of the graph's own work at the peaks of the machine; all figures per call.

    Attributes:
        seconds: sum over kernels of the longer of arithmetic and memory traffic.
        arithmetic_s, traffic_s: each alone.
        kernels: number of kernels; operations pixel by pixel belong to the one before.
        share: ``seconds`` / median of the device scope.
    """

    seconds: float
    arithmetic_s: float
    traffic_s: float
    multiply_adds: int
    traffic_bytes: int
    kernels: int
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One artifact on one backend in one setting.

    Attributes (those whose name does not say it):
        name: backend and variant, such as ``onnxruntime-int8``.
        reason: why it could not run or did not finish; "" for a sound row.
        info: of the timed runner.
        artifact: file name.
        manifest: of the artifact, as JSON holds it; {} without one.
        layers: time per layer, the longest first, if it was asked for.
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

    @property
    def score(self) -> Score | None:
        """The accuracy at the size that is timed."""
        return self.accuracy.score if self.accuracy else None

    def timing(self, scope: str) -> Timing | None:
        """The timing of that scope, if it has one with samples."""
        found = (timing for timing in self.timings if timing.scope == scope and timing.latency)
        return next(found, None)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture beside the record.

    Attributes:
        image: name of the image in the data set.
        shows: ``image``, ``truth``, a row's name, or ``NAME differs``: where a row and the
            reference differ.
        file: path from the folder of the record.
    """

    image: str
    shows: str
    file: str


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run.

    Attributes:
        model, checkpoint, checkpoint_sha256: network, file name and hash.
        dataset, split: of the scored images; for a folder of images its name and "".
        images: names of the scored images.
        labelled: whether they have labels.
        classes, palette: names and colours (RGB), in the order of each ``class_iou``.
        categories: in the order of each ``category_iou``.
        scenario: of the timing, by the names of ``bench.measure.request.Scenario``.
        environment: machine and library versions, by name.
        peaks: of the device that computed.
        rows: by setting, and within it in the order in which they were asked for.
        harness_ns: time that the timer itself adds to a call (median of the null runner).
        started: date and time, ISO 8601, UTC.
        key: of everything that was asked for; a stopped run continues only with the same key.
        complete: False if the run was stopped before its end.
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
        """The settings of the rows, each once, in order."""
        return tuple(dict.fromkeys(row.setting for row in self.rows))

    def reference(self, setting: Setting) -> Row | None:
        """The row that the others of a setting are compared with."""
        rows = (row for row in self.rows if row.setting == setting and row.name == REFERENCE)
        return next(rows, None)
