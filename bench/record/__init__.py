"""The record of a run: one structure, from which every table, page and comparison is made.

A record holds everything that its reports show, raw samples included, so that a report can be made
again, or made differently, on another machine. Shares are in 0…1 and units are in the names; None
stands for a value that was not measured. ``bench.record.file`` writes and reads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, TypeVar

from annotated_types import Ge, Le, MaxLen

from bench.record.timing import Frames as Frames
from bench.record.timing import Latency as Latency
from bench.record.timing import Setting as Setting
from bench.record.timing import Telemetry as Telemetry
from bench.record.timing import Timing as Timing
from bench.record.timing import Turn as Turn
from dabnet.intervals import Interval
from dabnet.records import Amount, Byte, Count, Name, Rate, Seconds, Share, Text
from dabnet.runtime.runner import LayerTime, RunnerInfo

FORMAT = 4
REFERENCE = "pytorch-fp32"  # the row that others of its subject are compared with
PAPER = "paper"  # scope and variant of the published protocol (``bench.paper``)
UNKNOWN = "unknown images"
"""``Accuracy.calibrated_on`` where the images cannot be compared with those that are scored."""

Pixels = Annotated[int, Ge(0), Le(2**40)]
"""Of an image."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured on the backends: a checkpoint, a network with random weights, or a file."""

    label: Name  # unique; begins the names of its rows where there are several subjects
    model: Name  # name of the network; ``unknown`` of a file that does not say it
    file: Name  # file name
    sha256: Annotated[str, MaxLen(64)]  # of the file
    dataset: Name  # that it was trained on; "" if unknown
    parameters: Count | None  # of a file: of its layers with weights; None of an engine
    multiply_adds: dict[Name, Count]  # per frame, by the size of the image, such as ``512x1024``
    untrained: bool = False  # random weights: it has speed alone


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy at one size of the labels; shares in 0…1."""

    miou: Interval  # mean of the classes' IoU
    miou_difference: Interval | None  # to the reference, paired by image; None for itself
    class_iou: tuple[Share | None, ...]  # as ``Report.classes``; None: the class does not occur
    category_iou: tuple[Share | None, ...]  # as ``Report.categories``
    pixel_accuracy: Share  # share of labelled pixels that are right
    # Pixels per image (outer) and class (inner): their sums give each IoU.
    hits: tuple[tuple[Pixels, ...], ...]
    unions: tuple[tuple[Pixels, ...], ...]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Quality of one row's masks."""

    score: Score | None = None  # at the size that is timed; None without labels
    # With the mask enlarged (nearest pixel) to the size of the labels; None if that is the same.
    native_score: Score | None = None
    agreement: tuple[Share, ...] | None = None  # per image: pixels equal to the reference's, 0…1
    # Int8 arithmetic of the scored masks (``RunnerInfo.arithmetic``). If other arithmetic was
    # timed: share of pixels on which its masks equal the scored ones, and its mean IoU.
    arithmetic: Name = ""
    timed_agreement: Share | None = None
    timed_miou: Share | None = None
    calibrated_on: Name = ""  # images of the INT8 ranges, in words; "" for none; see ``UNKNOWN``
    overlap: tuple[Name, ...] = ()  # names of the scored images among them
    # The split of a data set that the network trained on, if it holds the scored images; else "".
    trained_on: Name = ""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Cost of a row beside time."""

    artifact_bytes: Count = 0  # 0 if unknown
    load_s: Seconds | None = None  # from the file to a runner
    first_inference_s: Seconds | None = None
    host_peak_bytes: Count | None = None  # maximum memory of its process
    device_peak_bytes: Count | None = None  # the same of the GPU, by NVML


@dataclass(frozen=True, slots=True)
class Cache:
    """The second-level cache of a GPU, which all of its cores share."""

    size_bytes: Annotated[int, Ge(1), Le(2**53)]
    bytes_per_s: Rate  # of tensors that lie in it, reads and writes together


@dataclass(frozen=True, slots=True)
class Peaks:
    """Peak rates of a device, measured by ``bench.machine.peaks``."""

    device: Name
    bytes_per_s: Rate  # of its memory, reads and writes together
    multiply_adds_per_s: dict[Name, Rate]  # by precision, what was measured
    measured: Name  # date and time, ISO 8601
    cache: Cache | None = None  # None where it was not measured, as on a processor


@dataclass(frozen=True, slots=True)
class Limit:
    """Minimum time of the graph's own work at the peaks of the machine; all figures per call."""

    seconds: Seconds  # sum over kernels of the longer of arithmetic and memory traffic
    arithmetic_s: Seconds
    traffic_s: Seconds
    multiply_adds: Count
    traffic_bytes: Count
    kernels: Count  # operations pixel by pixel belong to the one before
    share: Amount | None = None  # ``seconds`` / median of the device scope


@dataclass(frozen=True, slots=True)
class Row:
    """One artifact on one backend in one setting."""

    # Backend and variant, such as ``onnxruntime-int8``, behind the label of the subject where there
    # are several: ``lednet/onnxruntime-int8``.
    name: Name
    setting: Setting
    reason: Text = ""  # why it could not run or did not finish; "" for a sound row
    info: RunnerInfo | None = None  # of the timed runner
    artifact: Name = ""  # file name
    manifest: dict[str, Any] = field(default_factory=dict)  # of the artifact, as JSON holds it
    accuracy: Accuracy | None = None
    timings: Annotated[tuple[Timing, ...], MaxLen(16)] = ()
    footprint: Footprint = field(default_factory=Footprint)
    limit: Limit | None = None
    layers: tuple[LayerTime, ...] = ()  # the longest first, if they were asked for
    of: Name = ""  # label of its subject; "" where the record has one

    @property
    def on(self) -> str:
        """Backend and variant, whatever the subject."""
        return self.name.removeprefix(f"{self.of}/")

    @property
    def score(self) -> Score | None:
        return self.accuracy.score if self.accuracy else None

    def timing(self, scope: str) -> Timing | None:
        """The timing of that scope, if it has one with samples."""
        found = (timing for timing in self.timings if timing.scope == scope and timing.latency)
        return next(found, None)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture beside the record."""

    image: Name  # its name in the data set
    shows: Name  # ``image``, ``truth``, a row's name, or ``NAME differs`` from the reference
    file: Name  # path from the folder of the record


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run."""

    subjects: Annotated[tuple[Subject, ...], MaxLen(100)]  # in the order of their rows
    dataset: Name  # of the scored images; for a folder of images its name
    split: Name  # "" for a folder
    images: Annotated[tuple[Name, ...], MaxLen(100_000)]  # names of the scored images
    labelled: bool
    classes: Annotated[tuple[Name, ...], MaxLen(256)]  # in the order of each ``class_iou``
    palette: tuple[tuple[Byte, Byte, Byte], ...]  # RGB, by class
    categories: Annotated[tuple[Name, ...], MaxLen(256)]  # in the order of each ``category_iou``
    scenario: dict[str, Any]  # by the names of ``bench.measure.request.Scenario``
    environment: dict[Name, Name]  # machine and library versions, by name
    # By setting, then by subject, in the order in which they were asked for.
    rows: Annotated[tuple[Row, ...], MaxLen(1000)]
    peaks: Peaks | None = None  # of the device that computed
    pictures: Annotated[tuple[Picture, ...], MaxLen(100_000)] = ()
    harness_ns: Amount | None = None  # what the timer adds to a call (median of the null runner)
    started: Name = ""  # date and time, ISO 8601, UTC
    key: Name = ""  # of all that was asked for; a run continues one that stopped with the same key
    complete: bool = True  # False if the run was stopped before its end
    format: int = FORMAT

    @property
    def settings(self) -> tuple[Setting, ...]:
        return tuple(dict.fromkeys(row.setting for row in self.rows))

    @property
    def title(self) -> str:
        """Such as ``dabnet and lednet``."""
        *others, last = (subject.label for subject in self.subjects)
        return f"{', '.join(others)} and {last}" if others else self.subjects[0].model

    def subject(self, row: Row) -> Subject:
        """What a row is of."""
        return next(s for s in self.subjects if row.of in ("", s.label))

    def reference(self, setting: Setting) -> Row | None:
        """The row of a setting that the speed of all others is compared with."""
        return first_reference(row for row in self.rows if row.setting == setting)


class _Named(Protocol):
    @property
    def on(self) -> str: ...

    @property
    def reason(self) -> str: ...


AnyRow = TypeVar("AnyRow", bound=_Named)


def first_reference(rows: Iterable[AnyRow]) -> AnyRow | None:
    """The first row called ``REFERENCE`` that ran, else the first that did not; None without."""
    found = [row for row in rows if row.on == REFERENCE]
    return next((row for row in found if not row.reason), found[0] if found else None)
