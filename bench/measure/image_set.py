"""The images that are scored and timed: a split of a data set, or a folder without labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dabnet.data.dataset import Dataset, LabelledImage, Uint8Array, evenly_spaced
from dabnet.data.transforms import resize_image, resize_label

if TYPE_CHECKING:
    from dabnet.data.labels import LabelSet


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Which images; small enough to be given to another process, which opens them itself.

    Attributes:
        dataset, split, data_dir: as of ``dabnet.data.registry.open_dataset``.
        folder: of images without labels, in place of the split.
        most: how many of them, the first ones; None for all.
        size: (height, width) of images that are drawn; those on disk have their own.
    """

    dataset: str
    split: str
    data_dir: Path | None
    folder: Path | None
    most: int | None
    size: tuple[int, int]

    @property
    def labelled(self) -> bool:
        """Whether there is a truth to compare with."""
        return self.folder is None

    def open(self) -> Dataset:
        """Return the images.

        Raises:
            InputError: there are none.
        """
        if self.folder is not None:
            return _Unlabelled(self.folder, self.dataset)
        from dabnet.data.registry import open_dataset

        return open_dataset(self.dataset, self.split, self.data_dir, self.size)

    def indices(self, dataset: Dataset) -> range:
        """Those that are scored."""
        return range(len(dataset) if self.most is None else min(self.most, len(dataset)))


class _Unlabelled:
    """A folder of images as a data set whose pixels are all to be ignored."""

    split = ""

    def __init__(self, folder: Path, dataset: str) -> None:
        from dabnet.data.images import image_folder
        from dabnet.data.labels import label_set

        self._listed = image_folder(folder, (0, 0))
        self.name = folder.resolve().name
        self.labels: LabelSet = label_set(dataset)

    def fingerprint(self) -> None:
        return None

    def __len__(self) -> int:
        return len(self._listed)

    def __getitem__(self, index: int) -> LabelledImage:
        from dabnet.data.image_files import read_image

        path = self._listed.paths[index]
        image = read_image(path)
        label = np.full(image.shape[:2], self.labels.ignore, np.uint8)
        return LabelledImage(path.relative_to(self._listed.folder).as_posix(), image, label)


@dataclass(frozen=True, slots=True)
class Prepared:
    """One image as a backend takes it.

    Attributes:
        name: of the image.
        image: uint8 (H, W, 3) at the size that is timed.
        label: uint8 (H, W) at that size.
        native_label: uint8 at the label's own size.
    """

    name: str
    image: Uint8Array
    label: Uint8Array
    native_label: Uint8Array


def prepared(dataset: Dataset, indices: range, size: tuple[int, int]) -> Iterator[Prepared]:
    """Yield the images in order, read and resized ahead by as many threads as there are cores."""
    from dabnet.data.memory import read_ahead

    yield from read_ahead(_Resized(dataset, size), indices)


class _Resized:
    """A data set whose images are resized by the thread that reads them."""

    def __init__(self, dataset: Dataset, size: tuple[int, int]) -> None:
        self._dataset, self._size = dataset, size

    def __getitem__(self, index: int) -> Prepared:
        item = self._dataset[index]
        return Prepared(
            item.name,
            resize_image(item.image, self._size),
            resize_label(item.label, self._size),
            item.label,
        )


def timed_inputs(
    dataset: Dataset, size: tuple[int, int], batch: int, count: int = 4
) -> list[Uint8Array]:
    """Real images as batches uint8 (N, H, W, 3), several: no call sees the input of the one before.

    A batch is one image again and again: what a network costs does not depend on its pixels.
    """
    images = [
        resize_image(dataset[index].image, size) for index in evenly_spaced(len(dataset), count)
    ]
    return [np.repeat(image[None], batch, axis=0) for image in images]
