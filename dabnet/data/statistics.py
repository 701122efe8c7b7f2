"""Class shares and mean colour of a split, which training must know beforehand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import MaxLen, MinLen
from numpy.typing import NDArray

from dabnet.data.dataset import Dataset, LabelledImage
from dabnet.data.labels import LabelSet
from dabnet.data.memory import read_ahead
from dabnet.errors import DabnetError, InputError
from dabnet.files import writable_directory
from dabnet.preprocessing import Triple
from dabnet.records import Codec, Count


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """Sums over the pixels of a split, or of a part of it: whole numbers, so parts add up.

    Attributes:
        class_pixels: labelled pixels of each class, K numbers.
        colour_sum: of each channel, RGB.
        pixels: of all images, labelled or not.
    """

    class_pixels: Annotated[tuple[Count, ...], MinLen(1), MaxLen(256)]
    colour_sum: tuple[Count, Count, Count]
    pixels: Count

    def __post_init__(self) -> None:
        if sum(self.class_pixels) > self.pixels:
            raise ValueError(f"{sum(self.class_pixels)} labelled pixels of {self.pixels}")
        if max(self.colour_sum) > 255 * self.pixels:
            raise ValueError(f"a colour of more than 255 in {self.pixels} pixels")

    @property
    def class_share(self) -> NDArray[np.float64]:
        """Share of each class among labelled pixels, float64 (K,), sums to 1."""
        counts = np.array(self.class_pixels)
        share: NDArray[np.float64] = counts / max(1, int(counts.sum()))
        return share

    @property
    def mean_rgb(self) -> Triple:
        """Mean of each channel, 0…255."""
        red, green, blue = (round(total / max(1, self.pixels), 4) for total in self.colour_sum)
        return red, green, blue


class PixelCounter:
    """Adds up the pixels of images one by one.

    Args:
        classes: number of classes K.
    """

    def __init__(self, classes: int) -> None:
        self._class_pixels = np.zeros(classes, np.int64)
        self._colour_sum = np.zeros(3, np.int64)
        self._pixels = 0

    def add(self, item: LabelledImage) -> None:
        values = np.bincount(item.label.reshape(-1), minlength=256)
        self._class_pixels += values[: len(self._class_pixels)]
        self._colour_sum += item.image.sum((0, 1), dtype=np.int64)
        self._pixels += item.label.size

    def counts(self) -> SplitCounts:
        """Return the sums over what was added."""
        class_pixels, colour_sum = self._class_pixels.tolist(), self._colour_sum.tolist()
        red, green, blue = colour_sum
        return SplitCounts(tuple(class_pixels), (red, green, blue), self._pixels)


def count_pixels(
    dataset: Dataset, indices: Sequence[int], progress: Callable[[], None] = lambda: None
) -> SplitCounts:
    """Read the images of ``indices`` once; ``progress`` is called after each."""
    counter = PixelCounter(len(dataset.labels.classes))
    for item in read_ahead(dataset.__getitem__, indices):
        counter.add(item)
        progress()
    return counter.counts()


def check_classes_occur(counts: SplitCounts, labels: LabelSet, split: str) -> list[str]:
    """Return the names of the classes that no pixel of a split has.

    Raises:
        InputError: fewer than two classes occur: there is nothing to learn.
    """
    pairs = list(zip(labels.classes, counts.class_pixels, strict=True))
    present = [name for name, pixels in pairs if pixels]
    expected = f"at least two of the {len(pairs)} classes"
    if not present:
        raise InputError(
            f"the labels of the {split} split hold no class at all: every pixel is ignored",
            expected,
            "see what the masks hold, and for Cityscapes whether labelTrainIds are named labelIds",
        )
    if len(present) == 1:
        ignored = 1 - sum(counts.class_pixels) / max(1, counts.pixels)
        raise InputError(
            f"the labels of the {split} split hold one class alone, {present[0]!r}, and"
            f" {100 * ignored:.1f} % of the pixels are ignored",
            expected,
            "for masks of 0 and 255, write a file of classes with '0 0 0 NAME' and"
            " '255 255 255 NAME' (--dataset folder)",
        )
    return [name for name, pixels in pairs if not pixels]


COUNTS = Codec(SplitCounts, "file of pixel counts", "dabnet-train", "delete it")


class CountsCache:
    """Counts kept in a folder by what was counted: a changed image or label is counted anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, dataset: Dataset) -> SplitCounts | None:
        """Return what was counted of this very split, or None."""
        file = self._file(dataset)
        try:
            counts = COUNTS.read(file) if file else None
        except DabnetError:  # absent or damaged: it is counted anew
            return None
        fits = counts and len(counts.class_pixels) == len(dataset.labels.classes)
        return counts if fits else None

    def store(self, dataset: Dataset, counts: SplitCounts) -> None:
        """Keep the counts of a split that has a fingerprint, where the folder can be written."""
        file = self._file(dataset)
        # Not to be able to is no reason to end a run: the split is counted again next time.
        with suppress(DabnetError):
            if file is not None:
                writable_directory(file.parent)
                COUNTS.write(counts, file)

    def _file(self, dataset: Dataset) -> Path | None:
        fingerprint = dataset.fingerprint()
        if fingerprint is None:
            return None
        digest = hashlib.sha256(os.fsencode(fingerprint)).hexdigest()[:16]
        return self.folder / "pixel-counts" / f"{dataset.name}-{dataset.split}-{digest}.json"
