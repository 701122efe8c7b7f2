"""One view of the images that an export or a benchmark looks at, and a folder of them.

``SizedImages`` shows some images of a data set at one size. ``ImageFolder`` is a data set of
images without labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from dabnet.data.dataset import Dataset, LabelledImage, Uint8Array, evenly_spaced
from dabnet.data.file_pairs import seen_by
from dabnet.data.image_files import (
    SUFFIXES,
    fingerprint_of,
    image_sha256,
    is_image,
    read_image,
)
from dabnet.data.labels import NO_LABELS, LabelSet
from dabnet.data.memory import read_ahead
from dabnet.data.registry import DRAWN, open_dataset
from dabnet.errors import InputError, printable
from dabnet.files import existing_directory

FOLDER = "folder"
"""The split of a folder of images, which has no labels."""


def resize_image(image: Uint8Array, size: tuple[int, int]) -> Uint8Array:
    """Resize uint8 (H, W, 3) to (height, width) bilinearly, with antialiasing when it shrinks."""
    return _resized(image, size, Image.Resampling.BILINEAR)


def resize_label(label: Uint8Array, size: tuple[int, int]) -> Uint8Array:
    """Resize class indices uint8 (H, W) to (height, width) by the nearest pixel."""
    return _resized(label, size, Image.Resampling.NEAREST)


def _resized(array: Uint8Array, size: tuple[int, int], how: Image.Resampling) -> Uint8Array:
    if array.shape[:2] == size:
        return array
    return np.asarray(Image.fromarray(array).resize(size[::-1], how))


class Unreadable:
    """Images that could not be read and were skipped.

    Args:
        limit: the maximum number of them.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.reasons: list[str] = []

    def skip(self, error: InputError) -> None:
        """Record why one image is skipped; beyond the limit, raise ``InputError``."""
        if len(self.reasons) == self.limit:
            if self.limit == 0:
                raise error
            raise InputError(
                f"more than {self.limit} images cannot be read, the last because {error}"
            ) from error
        self.reasons.append(str(error))


@dataclass(frozen=True, slots=True)
class SizedImage:
    """One image at the size that a network sees.

    Attributes:
        name: unique in its data set.
        image: uint8 (H, W, 3), RGB, 0…255.
        label: uint8 (H, W); the label set's ignore value where the data set has no labels.
        native_label: uint8 at the label's own size.
        sha256: ``image_sha256`` of the pixels before they were resized.
    """

    name: str
    image: Uint8Array
    label: Uint8Array
    native_label: Uint8Array
    sha256: str


@dataclass(frozen=True, slots=True)
class SizedImages:
    """Chosen images of a data set at one size, in order, read ahead by threads.

    It can be pickled: another process reads the images itself.

    Attributes:
        dataset: their source.
        size: (height, width) they are resized to, bilinearly; labels by the nearest pixel.
        indices: of the chosen images in the data set.
        unreadable: collects the images that iteration skips; by default none may be skipped.
    """

    dataset: Dataset
    size: tuple[int, int]
    indices: Sequence[int]
    unreadable: Unreadable = field(default_factory=Unreadable, compare=False)

    @classmethod
    def first(cls, dataset: Dataset, size: tuple[int, int], most: int | None = None) -> SizedImages:
        """The first ``most`` images; None takes all."""
        return cls(dataset, size, range(len(dataset))[:most])

    @classmethod
    def spread(cls, dataset: Dataset, size: tuple[int, int], count: int) -> SizedImages:
        """``count`` evenly spaced images; all where the data set is smaller."""
        return cls(dataset, size, evenly_spaced(len(dataset), count))

    def __len__(self) -> int:
        """Number of chosen images, unreadable ones included."""
        return len(self.indices)

    def __getitem__(self, place: int) -> SizedImage:
        """Read the chosen image at ``place``.

        Raises:
            InputError: it cannot be read.
        """
        item = self.dataset[self.indices[place]]
        return SizedImage(
            item.name,
            resize_image(item.image, self.size),
            resize_label(item.label, self.size),
            item.label,
            image_sha256(item.image),
        )

    def __iter__(self) -> Iterator[SizedImage]:
        """Yield the images.

        Raises:
            InputError: more of them are unreadable than ``unreadable`` allows.
        """
        for item in read_ahead(self._tried, range(len(self))):
            if isinstance(item, InputError):
                self.unreadable.skip(item)
            else:
                yield item

    def _tried(self, place: int) -> SizedImage | InputError:
        try:
            return self[place]
        except InputError as error:
            return error

    @property
    def labelled(self) -> bool:
        """Whether the data set has labels."""
        return self.dataset.split != FOLDER

    @property
    def origin(self) -> tuple[str, str]:
        """Names of data set and split, for records; of a folder, its name and ``folder``."""
        return self.dataset.name, self.dataset.split

    def seen_by(self, trained_on: Iterable[str]) -> str:
        """Return what a network has trained on that holds some of these; "" for none."""
        return seen_by(trained_on, self.dataset) if self.labelled else ""

    @property
    def description(self) -> str:
        """Such as ``8 images of camvid val``."""
        of = " ".join(self.origin)
        if isinstance(self.dataset, ImageFolder):
            of = str(self.dataset.directory)
        return f"{len(self)} images of {of}"


class ImageFolder:
    """The images of a folder and its subfolders, sorted by path; hidden files are left out.

    Args:
        directory: the folder; names of images are relative to it.
        labels: classes of the network; every pixel of a label has the ignore value.

    Attributes:
        paths: of the images, in their order.

    Raises:
        InputError: the folder is missing or holds no image.
    """

    split = FOLDER

    def __init__(self, directory: Path, labels: LabelSet = NO_LABELS) -> None:
        self.directory = existing_directory(directory, "a folder of images")
        self.name = directory.resolve().name
        self.labels = labels
        self.paths = sorted(filter(is_image, directory.rglob("*")))
        if not self.paths:
            raise InputError(
                f"no image in {str(directory)!r}",
                "files that end in " + ", ".join(SUFFIXES),
                "name another folder, or leave --images out for drawn street scenes",
            )

    def fingerprint(self) -> str:
        return fingerprint_of(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> LabelledImage:
        path = self.paths[index]
        image = read_image(path)
        label = np.full(image.shape[:2], self.labels.ignore, np.uint8)
        name = printable(path.relative_to(self.directory).as_posix())
        return LabelledImage(name, image, label)


def calibration_source(
    dataset: str,
    data_dir: Path | None,
    count: int,
    size: tuple[int, int],
    labels: LabelSet | None = None,
) -> SizedImages:
    """Evenly spaced images of the training split, never of the split that is scored.

    Args:
        labels: the classes of the checkpoint (``open_dataset``).

    Raises:
        InputError: the data set is on disk, and ``data_dir`` is None.
    """
    if data_dir is None and dataset != DRAWN:
        raise InputError(
            f"INT8 needs images of {dataset} to calibrate on, and no --data-dir was given",
            "the folder of the data set the checkpoint was trained on",
            "add --data-dir DIR",
        )
    return SizedImages.spread(open_dataset(dataset, "train", data_dir, size, labels), size, count)


def images_or_scenes(
    dataset: str,
    split: str,
    data_dir: Path | None,
    count: int,
    size: tuple[int, int],
    labels: LabelSet | None = None,
) -> SizedImages:
    """Evenly spaced images of a split where its folder is known, else toy street scenes.

    For what needs no labels: the agreement of two masks, or how large activations grow.
    """
    name = dataset if data_dir is not None else DRAWN
    own = labels if data_dir is not None else None  # drawn scenes have classes of their own
    return SizedImages.spread(open_dataset(name, split, data_dir, size, own), size, count)
