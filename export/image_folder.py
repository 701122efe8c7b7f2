"""Images to compare two artifacts on: any folder of pictures, without labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from calibration.calibrate import CalibrationImage
from dabnet.data.dataset import Uint8Array
from dabnet.data.image_files import read_image
from dabnet.data.image_hash import image_sha256
from dabnet.data.transforms import resize_image
from dabnet.errors import InputError
from dabnet.files import existing_directory
from export.images import Unreadable

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
