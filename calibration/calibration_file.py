"""The statistics of a calibration: a histogram of each tensor, of which graph, on which images.

A file of it is JSON, one line per image and one line per tensor, so that a person can read and
compare it: every method's ranges and every placement follow from it without reading an image again.
Two files of one graph add up to the file that one run over all images would have written.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, Literal

import onnx_ir as ir
from annotated_types import MinLen

from calibration.histogram import HistogramRecord, StreamingHistogram
from calibration.ranges import symmetric_range
from dabnet import __version__
from dabnet.errors import ArtifactError, InputError
from dabnet.file_kind import CALIBRATION, UNKNOWN, kind_of, refuse_other
from dabnet.files import existing_file
from dabnet.records import Codec, Name, Sha256, Side
from dabnet.runtime.manifest import CalibrationInfo

KIND: Final = "dabnet calibration"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Subject:
    """The graph that was calibrated.

    Attributes:
        checkpoint_sha256: of the network's file.
        graph_sha256: of the FP32 graph, by ``graph_sha256``; ranges belong to its tensor names.
        optimized_for: the target whose passes it went through, for messages.
        size: (height, width) in pixels.
    """

    checkpoint_sha256: str
    graph_sha256: str
    optimized_for: str
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Statistics and their origin.

    Attributes:
        subject: the graph.
        dataset, split: the images: a data set's name and ``train``, or a folder's and ``folder``.
        images: ``image_sha256`` of each by its name, in the order they were read.
        histograms: tensor name → the distribution of its values.
    """

    subject: Subject
    dataset: str
    split: str
    images: Mapping[str, str]
    histograms: Mapping[str, StreamingHistogram]

    def ranges(self, method: str) -> dict[str, float]:
        """The threshold of each tensor by one of ``calibration.ranges``' methods."""
        return {name: symmetric_range(h, method) for name, h in self.histograms.items()}

    def info(self, method: str) -> CalibrationInfo:
        """The record of ranges by ``method`` for a manifest."""
        hashes = tuple(self.images.values())
        return CalibrationInfo(method, self.dataset, self.split, len(hashes), hashes)

    def merged(self, other: Calibration) -> Calibration:
        """The statistics that one run over the images of both would have given.

        Raises:
            InputError: they are of different graphs, data or tensors, or share an image or a name.
        """
        self.require(other.subject, "the other calibration")
        if (self.dataset, self.split) != (other.dataset, other.split):
            raise InputError(
                f"calibrations on {self.dataset} {self.split} and {other.dataset} {other.split}",
                "two on the same data",
            )
        if self.histograms.keys() != other.histograms.keys():
            raise InputError("calibrations of different tensors", "two of the same tensors")
        twice = set(self.images.values()) & set(other.images.values())
        if twice:
            name = next(name for name, sha256 in other.images.items() if sha256 in twice)
            raise InputError(
                f"{len(twice)} images are in both calibrations, such as {name!r}",
                "each image once",
                "collect on other images",
            )
        if shared := self.images.keys() & other.images.keys():
            raise InputError(
                f"two calibration images are called {min(shared)!r}", "one name per image"
            )
        histograms = {}
        for name, histogram in self.histograms.items():
            histograms[name] = StreamingHistogram()
            histograms[name].merge(histogram)
            histograms[name].merge(other.histograms[name])
        return replace(self, images={**self.images, **other.images}, histograms=histograms)

    def require(self, subject: Subject, of: str) -> None:
        """Raise ``InputError`` unless the statistics are those of ``subject``, named by ``of``."""
        mine = self.subject
        if mine.checkpoint_sha256 != subject.checkpoint_sha256:
            raise InputError(
                f"a calibration of another network (checkpoint {mine.checkpoint_sha256[:12]})",
                f"one of {of} (checkpoint {subject.checkpoint_sha256[:12]})",
                "collect it again with: dabnet-export calibration CHECKPOINT",
            )
        if mine.graph_sha256 != subject.graph_sha256:
            raise InputError(
                f"a calibration of another graph ({_form(mine)}; {of} is {_form(subject)})",
                "one of the same graph",
                "collect it again with the --size, --batch and --optimize-for of the export",
            )


@dataclass(frozen=True, slots=True)
class _File:
    """The keys of a calibration file."""

    kind: Literal["dabnet calibration"]
    version: int
    tool_version: Name
    checkpoint_sha256: Sha256
    graph_sha256: Sha256
    optimized_for: Name
    size: tuple[Side, Side]
    dataset: Name
    split: Name
    images: Annotated[dict[Name, Sha256], MinLen(1)]
    tensors: Annotated[dict[str, HistogramRecord], MinLen(1)]

    def __post_init__(self) -> None:
        hashes = Counter(self.images.values())
        if len(hashes) < len(self.images):
            sha256, count = hashes.most_common(1)[0]
            raise ValueError(f"{count} images have the hash {sha256[:12]}")


_CODEC = Codec(
    _File,
    "calibration",
    "dabnet-export calibration",
    "collect it again with: dabnet-export calibration CHECKPOINT",
    version=("version", VERSION),
    error=ArtifactError,
    one_line_each=("images", "tensors"),
)


def is_calibration(path: Path) -> bool:
    """Whether a file is JSON, as a calibration is, and of no other known kind.

    Raises:
        InputError: there is no such file, or it is empty.
    """
    with existing_file(path, "a file that dabnet-export takes").open("rb") as file:
        is_json = file.read(1) == b"{"
    return is_json and kind_of(path) in (CALIBRATION, UNKNOWN)


def load_calibration(path: Path) -> Calibration:
    """Read a calibration file.

    Raises:
        InputError: there is no such file.
        ArtifactError: it is damaged, of another version, or no calibration.
    """
    if path.is_file():
        refuse_other(path, CALIBRATION, expected="a calibration that dabnet-export wrote")
    file = _CODEC.read(path)
    subject = Subject(file.checkpoint_sha256, file.graph_sha256, file.optimized_for, file.size)
    histograms = {name: record.histogram() for name, record in file.tensors.items()}
    return Calibration(subject, file.dataset, file.split, file.images, histograms)


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write the file atomically."""
    subject = calibration.subject
    file = _File(
        KIND,
        VERSION,
        __version__,
        subject.checkpoint_sha256,
        subject.graph_sha256,
        subject.optimized_for,
        subject.size,
        calibration.dataset,
        calibration.split,
        dict(calibration.images),
        {name: histogram.record() for name, histogram in calibration.histograms.items()},
    )
    _CODEC.write(file, path)


def graph_sha256(model: ir.Model) -> str:
    """SHA-256 of a graph, its weights and names, as 64 hex digits; metadata does not count."""
    graph = ir.to_proto(model).graph
    return hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest()


def _form(subject: Subject) -> str:
    height, width = subject.size
    return f"{subject.optimized_for}, {height}x{width}, graph {subject.graph_sha256[:12]}"
