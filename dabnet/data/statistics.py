"""Class shares and mean colour of a split, which training must know beforehand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dabnet.data.dataset import Dataset
from dabnet.data.memory import read_ahead
from dabnet.errors import DabnetError
from dabnet.files import writable_directory
from dabnet.preprocessing import Triple
from dabnet.records import Codec


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """Sums over the pixels of a split, or of a part of it: whole numbers, so parts add up.

    Attributes:
        class_pixels: labelled pixels of each class, K numbers.
        colour_sum: of each channel, RGB.
        pixels: of all images, labelled or not.
    """

    class_pixels: tuple[int, ...]
    colour_sum: tuple[int, ...]
    pixels: int

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


def count_pixels(
    dataset: Dataset, indices: Sequence[int], progress: Callable[[], None] = lambda: None
) -> SplitCounts:
    """Read the images of ``indices`` once; ``progress`` is called after each."""
    classes = len(dataset.labels.classes)
    class_pixels = np.zeros(classes, np.int64)
    colour_sum = np.zeros(3, np.int64)
    pixels = 0
    for item in read_ahead(dataset.__getitem__, indices):
        class_pixels += np.bincount(item.label.reshape(-1), minlength=256)[:classes]
        colour_sum += item.image.sum((0, 1), dtype=np.int64)
        pixels += item.label.size
        progress()
    return SplitCounts(tuple(class_pixels.tolist()), tuple(colour_sum.tolist()), pixels)


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
        digest = hashlib.sha256(fingerprint.encode()).hexdigest()[:16]
        return self.folder / "pixel-counts" / f"{dataset.name}-{dataset.split}-{digest}.json"
