"""The images an export looks at: training images to calibrate, others to check.

Images to compare two artifacts on: any folder of pictures, without labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from calibration.calibrate import CalibrationImage
from dabnet.data.dataset import Dataset, Uint8Array, evenly_spaced
from dabnet.data.image_files import image_sha256, read_image
from dabnet.data.registry import open_dataset
from dabnet.data.transforms import resize_image
from dabnet.errors import InputError
from dabnet.files import existing_directory


class CalibrationSource(Protocol):
    """Images to calibrate on."""

    @property
    def origin(self) -> tuple[str, str]:
        """The data set's name and split, or a folder's and ``folder``."""
        ...

    def __len__(self) -> int: ...

    def hashed(self, unreadable: Unreadable | None = None) -> Iterator[CalibrationImage]:
        """Yield the images with the hashes of their native pixels, one at a time."""
        ...


class Unreadable:
    """The images that could not be read, up to a limit.

    Args:
        limit: how many may be passed over.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.reasons: list[str] = []

    def passed(self, error: InputError) -> None:
        """Keep why one image is passed over; raise ``error`` itself past the limit."""
        if len(self.reasons) == self.limit:
            if self.limit == 0:
                raise error
            raise InputError(
                f"more than {self.limit} images cannot be read, the last because {error}"
            ) from error
        self.reasons.append(str(error))


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Some evenly spaced images of one split, at one size.

    Attributes:
        dataset: the split.
        count: how many images; fewer where the split is smaller.
        size: (height, width) they are resized to.
    """

    dataset: Dataset
    count: int
    size: tuple[int, int]

    def __len__(self) -> int:
        return min(self.count, len(self.dataset))

    def __iter__(self) -> Iterator[tuple[str, Uint8Array]]:
        """Yield (name, uint8 (H, W, 3)) one image at a time."""
        for index in self.indices:
            item = self.dataset[index]
            yield item.name, resize_image(item.image, self.size)

    @property
    def indices(self) -> list[int]:
        """Of the images, in the split."""
        return evenly_spaced(len(self.dataset), self.count)

    @property
    def origin(self) -> tuple[str, str]:
        """Data set and split, for the record of a calibration."""
        return self.dataset.name, self.dataset.split

    def hashed(self, unreadable: Unreadable | None = None) -> Iterator[CalibrationImage]:
        """Yield the images with the hashes of their native pixels, one at a time.

        Raises:
            InputError: more images cannot be read than ``unreadable`` lets pass (None: none).
        """
        for index in self.indices:
            try:
                item = self.dataset[index]
            except InputError as error:
                (unreadable or Unreadable()).passed(error)
                continue
            pixels = resize_image(item.image, self.size)
            yield CalibrationImage(item.name, pixels, image_sha256(item.image))

    @property
    def description(self) -> str:
        """Such as ``8 images of camvid val``."""
        return f"{len(self)} images of {self.dataset.name} {self.dataset.split}"


def calibration_source(
    dataset: str, data_dir: Path | None, count: int, size: tuple[int, int]
) -> ImageSource:
    """Images of the training split, never of the one that is scored."""
    if data_dir is None and dataset != "toy-street":
        raise InputError(
            f"INT8 needs images of {dataset} to calibrate on, and no --data-dir was given",
            "the folder of the data set the checkpoint was trained on",
            "add --data-dir DIR",
        )
    return ImageSource(open_dataset(dataset, "train", data_dir, size), count, size)


def check_source(
    dataset: str, data_dir: Path | None, count: int, size: tuple[int, int]
) -> ImageSource:
    """Validation images of the data set where its folder is known, else toy street scenes."""
    return _source(dataset, "val", data_dir, count, size)


def range_source(
    dataset: str, data_dir: Path | None, count: int, size: tuple[int, int]
) -> ImageSource:
    """Training images of the data set where its folder is known, else toy street scenes: to see
    how large activations grow, which takes no labels and no calibration."""
    return _source(dataset, "train", data_dir, count, size)


def _source(
    dataset: str, split: str, data_dir: Path | None, count: int, size: tuple[int, int]
) -> ImageSource:
    known = data_dir is not None or dataset == "toy-street"
    name = dataset if known else "toy-street"
    return ImageSource(open_dataset(name, split, data_dir, size), count, size)


SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """Pictures of a folder and its subfolders, sorted by path, read one at a time.

    Attributes:
        folder: names are relative to it.
        paths: the files.
        size: (height, width) they are resized to, bilinearly.
    """

    folder: Path
    paths: tuple[Path, ...]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[tuple[str, Uint8Array]]:
        """Yield (name, uint8 (H, W, 3), RGB).

        Raises:
            InputError: a file is damaged or no picture.
        """
        for path in self.paths:
            yield (
                path.relative_to(self.folder).as_posix(),
                resize_image(read_image(path), self.size),
            )

    @property
    def origin(self) -> tuple[str, str]:
        """The folder's name and ``folder``, for the record of a calibration."""
        return self.folder.resolve().name, "folder"

    def hashed(self, unreadable: Unreadable | None = None) -> Iterator[CalibrationImage]:
        """As ``ImageSource.hashed``."""
        for path in self.paths:
            try:
                image = read_image(path)
            except InputError as error:
                (unreadable or Unreadable()).passed(error)
                continue
            name = path.relative_to(self.folder).as_posix()
            yield CalibrationImage(name, resize_image(image, self.size), image_sha256(image))

    @property
    def description(self) -> str:
        """Such as ``101 images of frames``."""
        return f"{len(self)} images of {self.folder}"


def image_folder(folder: Path, size: tuple[int, int], limit: int | None = None) -> ImageFolder:
    """List the first ``limit`` pictures of a folder; hidden files are left out.

    Raises:
        InputError: there is no such folder, or it holds no picture.
    """
    existing_directory(folder, "a folder of images")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise InputError(
            f"no image in {str(folder)!r}",
            "files that end in " + ", ".join(SUFFIXES),
            "name another folder, or leave --images out for drawn street scenes",
        )
    return ImageFolder(folder, tuple(found[:limit]), size)
