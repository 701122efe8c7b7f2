"""Reading of images and label images; every error names its file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dabnet.data.dataset import LabelledImage, Uint8Array
from dabnet.data.labels import LabelSet
from dabnet.errors import InputError


class FilePairs:
    """A split whose images and labels are files, read at each access.

    A subclass defines ``name``, ``labels`` and ``splits``, sets ``pairs``, and may override
    ``read_label`` and ``name_of``.

    Args:
        split: one of ``splits``.

    Raises:
        InputError: the split is unknown.
    """

    name: str
    labels: LabelSet
    splits: tuple[str, ...]

    def __init__(self, split: str) -> None:
        if split not in self.splits:
            raise InputError(f"unknown split {split!r}", "one of " + ", ".join(self.splits))
        self.split = split
        self.pairs: Sequence[tuple[Path, Path]] = ()

    def fingerprint(self) -> str:
        return fingerprint_of(path for pair in self.pairs for path in pair)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> LabelledImage:
        image_path, label_path = self.pairs[index]
        image, label = read_image(image_path), self.read_label(label_path)
        if image.shape[:2] != label.shape:
            raise InputError(
                f"{str(label_path)!r} is {label.shape[0]}x{label.shape[1]}",
                f"the size of its image, {image.shape[0]}x{image.shape[1]}",
            )
        return LabelledImage(self.name_of(image_path), image, label)

    def read_label(self, path: Path) -> Uint8Array:
        """Return a label image, uint8 (H, W), whose values are classes or ignore."""
        return read_label(path, self.labels)

    def name_of(self, image: Path) -> str:
        """Return the name of an image."""
        return image.stem


def read_image(path: Path) -> Uint8Array:
    """Read an image of 8 bits per channel as uint8 (H, W, 3), RGB.

    Raises:
        InputError: the file is missing, is damaged, is no image or has more bits.
    """
    picture = _open(path)
    if picture.mode.startswith(("I", "F")):  # converting would clip at 255, not scale
        raise InputError(
            f"{str(path)!r} has mode {picture.mode}",
            "8 bits per channel",
            "convert it to an 8-bit image",
        )
    return np.array(picture.convert("RGB"))


def read_label(path: Path, labels: LabelSet) -> Uint8Array:
    """Read a label image as uint8 (H, W) and check that every value is a class or ignore.

    Raises:
        InputError: as ``read_label_values``, or a value is neither a class nor ignore.
    """
    label = read_label_values(path)
    present = np.flatnonzero(np.bincount(label.reshape(-1), minlength=256))
    foreign = [int(v) for v in present if v >= len(labels.classes) and v != labels.ignore]
    if foreign:
        raise InputError(
            f"{str(path)!r} holds the label value {foreign[0]}",
            f"0 to {len(labels.classes) - 1}, or {labels.ignore} for unlabelled",
        )
    return label


def read_label_values(path: Path) -> Uint8Array:
    """Read a label image of any 8-bit coding as it is, uint8 (H, W).

    Raises:
        InputError: the file is missing, is damaged or has not one byte per pixel.
    """
    picture = _open(path)
    if picture.mode not in ("L", "P"):
        raise InputError(
            f"{str(path)!r} has mode {picture.mode}",
            "a label image of one byte per pixel (mode L or P)",
            "colour-coded labels must be converted to class indices",
        )
    return np.array(picture)


def _open(path: Path) -> Image.Image:
    try:
        picture = Image.open(path)
        picture.load()
        return picture
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{str(path)!r} cannot be read as an image", "a PNG", "copy the file again"
        ) from error


def fingerprint_of(paths: Iterable[Path]) -> str:
    """Return names, sizes and modification times of files, one line per file."""
    lines = []
    for path in paths:
        status = path.stat()
        lines.append(f"{path.parent.name}/{path.name} {status.st_size} {status.st_mtime_ns}")
    return "\n".join(lines)


def image_sha256(image: Uint8Array) -> str:
    """Return the SHA-256 of an image's decoded pixels as 64 hex digits.

    The pixels have their native size, so the hash depends neither on the file's name, format or
    compression, nor on the size at which an artifact was calibrated.

    Args:
        image: uint8, (H, W, 3), RGB, 0…255; hashed are ``"HxW\\n"`` and the pixels, row by row.

    Raises:
        ValueError: the array is of another type or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected uint8 (H, W, 3), got {image.dtype} {image.shape}")
    height, width, _ = image.shape
    # The header fixes the size: equal bytes in another shape are another picture.
    digest = hashlib.sha256(f"{height}x{width}\n".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()
