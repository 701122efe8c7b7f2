"""What calibration saw: a histogram of each tensor, of which graph, on which images.

A file of it is JSON, one line an image and one line a tensor, so that a person can read and compare
it: from it every method's ranges and every placement follow without reading an image again. Two
files of one graph add up to the file that one run over all images would have written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from calibration.histogram import StreamingHistogram
from calibration.ranges import symmetric_range
from dabnet import __version__
from dabnet.errors import ArtifactError, InputError
from dabnet.files import existing_file, write_text

KIND = "dabnet calibration"
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
class ImageOrigin:
    """One image that was seen: its name, and ``dabnet.data.image_files`` of its native pixels."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """Statistics and where they came from.

    Attributes:
        subject: which graph.
        dataset, split: which images: a data set's name and ``train``, or a folder's and ``folder``.
        images: each of them, in the order they were read.
        histograms: tensor name → what its values were.
    """

    subject: Subject
    dataset: str
    split: str
    images: tuple[ImageOrigin, ...]
    histograms: Mapping[str, StreamingHistogram]

    def __post_init__(self) -> None:
        names = [image.name for image in self.images]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"two calibration images are called {twice!r}", "one name an image")

    def ranges(self, method: str) -> dict[str, float]:
        """The threshold of each tensor by one of ``calibration.ranges``' methods."""
        return {name: symmetric_range(h, method) for name, h in self.histograms.items()}

    def merged(self, other: Calibration) -> Calibration:
        """What one run over the images of both would have seen.

        Raises:
            InputError: they are of different graphs, data or tensors, or share an image.
        """
        self.require(other.subject, "the other calibration")
        if (self.dataset, self.split) != (other.dataset, other.split):
            raise InputError(
                f"calibrations on {self.dataset} {self.split} and {other.dataset} {other.split}",
                "two on the same data",
            )
        if self.histograms.keys() != other.histograms.keys():
            raise InputError("calibrations of different tensors", "two of the same tensors")
        twice = {image.sha256 for image in self.images} & {image.sha256 for image in other.images}
        if twice:
            name = next(image.name for image in other.images if image.sha256 in twice)
            raise InputError(
                f"{len(twice)} images are in both calibrations, such as {name!r}",
                "each image once",
                "collect on other images",
            )
        histograms = {}
        for name, histogram in self.histograms.items():
            histograms[name] = StreamingHistogram()
            histograms[name].merge(histogram)
            histograms[name].merge(other.histograms[name])
        return replace(self, images=self.images + other.images, histograms=histograms)

    def require(self, subject: Subject, of: str) -> None:
        """Raise ``InputError`` unless the statistics are those of ``subject``, named by ``of``."""
        mine = self.subject
        if mine.checkpoint_sha256 != subject.checkpoint_sha256:
            raise InputError(
                f"a calibration of another network (checkpoint {mine.checkpoint_sha256[:12]})",
                f"one of {of} (checkpoint {subject.checkpoint_sha256[:12]})",
                "collect it again with: dabnet-export calibration collect",
            )
        if mine.graph_sha256 != subject.graph_sha256:
            raise InputError(
                f"a calibration of another graph ({_form(mine)}; {of} is {_form(subject)})",
                "one of the same graph",
                "collect it again with the --size, --batch and --optimize-for of the export",
            )

    def to_json(self) -> str:
        """Return the file's text."""
        head = {
            "kind": KIND,
            "version": VERSION,
            "tool_version": __version__,
            "checkpoint_sha256": self.subject.checkpoint_sha256,
            "graph_sha256": self.subject.graph_sha256,
            "optimized_for": self.subject.optimized_for,
            "size": list(self.subject.size),
            "dataset": self.dataset,
            "split": self.split,
        }
        lines = [f'"{key}": {json.dumps(value)}' for key, value in head.items()]
        images = {image.name: image.sha256 for image in self.images}
        tensors = {name: histogram.to_plain() for name, histogram in self.histograms.items()}
        lines += [_block("images", images), _block("tensors", tensors)]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> Calibration:
        """Read what ``to_json`` wrote; ``source`` names the file in the error."""
        try:
            raw: dict[str, Any] = json.loads(text)
            if raw["kind"] != KIND:
                raise ValueError(f"it is a {raw['kind']!r}")
            if raw["version"] != VERSION:
                raise ArtifactError(
                    f"{source} is a calibration file of version {raw['version']}",
                    f"version {VERSION}",
                    "collect it again with: dabnet-export calibration collect",
                )
            height, width = raw["size"]
            subject = Subject(
                str(raw["checkpoint_sha256"]),
                str(raw["graph_sha256"]),
                str(raw["optimized_for"]),
                (int(height), int(width)),
            )
            images = tuple(ImageOrigin(name, str(sha)) for name, sha in raw["images"].items())
            histograms = {
                name: StreamingHistogram.from_plain(plain) for name, plain in raw["tensors"].items()
            }
            if not images or not histograms:
                raise ValueError("it holds no images or no tensors")
            return cls(subject, str(raw["dataset"]), str(raw["split"]), images, histograms)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(
                f"{source} cannot be read as a calibration file ({_reason(error)})",
                "the JSON that dabnet-export calibration collect writes",
                "collect it again",
            ) from error


def load_calibration(path: Path) -> Calibration:
    """Read a calibration file.

    Raises:
        InputError: there is no such file.
        ArtifactError: it is damaged, or no calibration file.
    """
    file = existing_file(path, "a calibration file")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{str(path)!r} is no text", "a calibration file (JSON)") from error
    return Calibration.from_json(text, repr(str(path)))


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write the file atomically."""
    write_text(path, calibration.to_json())


def merge_calibrations(calibrations: Sequence[Calibration]) -> Calibration:
    """Add up one or more calibrations of one graph on different images."""
    total = calibrations[0]
    for other in calibrations[1:]:
        total = total.merged(other)
    return total


def graph_sha256(model: onnx.ModelProto) -> str:
    """SHA-256 of a graph, its weights and names, as 64 hex digits; metadata does not count."""
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()


def _block(name: str, entries: Mapping[str, object]) -> str:
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items()]
    return f'"{name}": {{\n' + ",\n".join(lines) + "\n}"


def _form(subject: Subject) -> str:
    height, width = subject.size
    return f"{subject.optimized_for}, {height}x{width}, graph {subject.graph_sha256[:12]}"


def _reason(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)
