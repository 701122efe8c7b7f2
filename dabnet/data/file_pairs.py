"""A split whose images and labels are files."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path

from dabnet.data.dataset import Dataset, LabelledImage, Uint8Array
from dabnet.data.image_files import fingerprint_of, read_image, stored_size
from dabnet.data.label_files import LabelCoding, read_label
from dabnet.data.labels import LabelSet
from dabnet.data.lists import Pair
from dabnet.data.splits import TRAINVAL, fold_of, seen_in
from dabnet.errors import InputError, printable
from dabnet.files import existing_directory


class NoSuchSplit(InputError):
    """A data set has no such split, or not here."""


class WrongSize(InputError):
    """A label image has another size than its image."""


class FilePairs:
    """A split whose images and labels are files, read at each access.

    A subclass defines ``name``, ``labels``, ``coding``, ``splits``, ``layout``, ``present`` and
    ``find``, and may override ``root``, ``read_label`` and ``name_of``.

    Attributes:
        directory: of the data set.
        split: one of ``splits``.
        pairs: the files.
    """

    name: str
    labels: LabelSet
    coding: LabelCoding
    splits: tuple[str, ...]
    layout: str
    """What the folder should hold, for messages."""

    def __init__(
        self, directory: str | Path, split: str, faults: list[InputError] | None = None
    ) -> None:
        """Find the files of a split.

        Args:
            directory: of the data set.
            split: one of ``splits``.
            faults: collects what is wrong with single pairs, which are left out; None raises it.

        Raises:
            NoSuchSplit: the split is unknown or not there.
            InputError: a folder is missing, a list is damaged, an image or a label lacks the other.
        """
        self.directory, self._faults = self.root(Path(directory)), faults
        self.split = split
        if split not in self.splits:
            raise NoSuchSplit(f"unknown split {split!r}", "one of " + ", ".join(self.splits))
        present = self.present()
        if split not in present:
            raise NoSuchSplit(
                f"the {split} split is not in {str(directory)!r}",
                self.layout,
                f"splits that are there: {', '.join(present) or 'none'}",
            )
        self.pairs: list[Pair] = self.find(split)
        if not self.pairs and not faults:
            raise InputError(
                f"the {split} split in {str(directory)!r} holds no images", self.layout
            )

    def sequences(self) -> list[str]:
        """Return the sequence of each image: the prefix of its name, up to the first "_".

        The images of a drive, or of a city, share it.
        """
        return [self.name_of(image).partition("_")[0] for image, _ in self.pairs]

    def without(self, sequence: str) -> tuple[FilePairs, FilePairs]:
        """Return this split without the images of a sequence, and these alone.

        Images of one sequence resemble each other: only a score on a sequence that the training did
        not see tells what a network does on an unseen street.

        Raises:
            InputError: there is no such sequence, or no other.
        """
        of = self.sequences()
        found = sorted(set(of))
        if sequence not in found or len(found) < 2:
            raise InputError(
                f"--fold {sequence} of {self.name} {self.split}",
                f"one of two or more prefixes of the images' names: {_some(found)}",
            )
        rest, alone = copy.copy(self), copy.copy(self)
        rest.split, alone.split = fold_of(self.split, sequence)
        rest.pairs = [pair for pair, name in zip(self.pairs, of, strict=True) if name != sequence]
        alone.pairs = [pair for pair, name in zip(self.pairs, of, strict=True) if name == sequence]
        return rest, alone

    def root(self, directory: Path) -> Path:
        """Return the folder of the data set where ``directory`` may be one above it."""
        return existing_directory(directory, f"the folder of {self.name}")

    def present(self) -> list[str]:
        """Return those of ``splits`` that are there."""
        raise NotImplementedError

    def find(self, split: str) -> list[Pair]:
        """Return the files of a split that is there."""
        raise NotImplementedError

    def with_trainval(self, found: Iterable[str]) -> list[str]:
        """Return the splits found, in the order of ``splits``, with the union of two of them."""
        present = set(found)
        if {"train", "val"} <= present:
            present.add(TRAINVAL)
        return [split for split in self.splits if split in present]

    def fault(self, error: InputError) -> None:
        """Raise the error, or keep it where faults are collected."""
        if self._faults is None:
            raise error
        self._faults.append(error)

    def fingerprint(self) -> str:
        return fingerprint_of(path for pair in self.pairs for path in pair)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> LabelledImage:
        image_path, label_path = self.pairs[index]
        image, label = read_image(image_path), self.read_label(label_path)
        if image.shape[:2] != label.shape:
            height, width = image.shape[:2]
            turned = stored_size(image_path) == label.shape
            raise WrongSize(
                f"{str(label_path)!r} is {label.shape[0]}x{label.shape[1]}",
                f"the size of its image, {height}x{width}"
                + (", which an EXIF tag turns upright" if turned else ""),
                "label the picture as viewers show it" if turned else "",
            )
        return LabelledImage(printable(self.name_of(image_path)), image, label)

    def read_label(self, path: Path) -> Uint8Array:
        """Return a label image, uint8 (H, W), whose values are classes or ignore."""
        return read_label(path, self.coding)

    def name_of(self, image: Path) -> str:
        """Return the name of an image."""
        return image.stem


def seen_by(trained_on: Iterable[str], dataset: Dataset) -> str:
    """Return what a network has trained on that holds images of a data set (``seen_in``)."""
    sequences = dataset.sequences() if isinstance(dataset, FilePairs) else ()
    return seen_in(trained_on, dataset.name, dataset.split, sequences)


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + ", …" * (len(names) > 8)
