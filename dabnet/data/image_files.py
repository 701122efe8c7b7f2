"""Reading the images and label images of a dataset; whatever is wrong names its file.

A name for the pixels of an image, by which two splits are searched for the same picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from dabnet.data.dataset import Uint8Array
from dabnet.data.labels import LabelSet
from dabnet.errors import InputError


def read_image(path: Path) -> Uint8Array:
    """Read an image of 8 bits a channel as uint8 (H, W, 3), RGB.

    Raises:
        InputError: the file is missing, damaged or no image, or has more bits.
    """
    picture = _open(path)
    if picture.mode.startswith(("I", "F")):  # converting would clip at 255, not scale
        raise InputError(
            f"{str(path)!r} has mode {picture.mode}",
            "8 bits a channel",
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
        InputError: the file is missing, damaged, or not of one byte a pixel.
    """
    picture = _open(path)
    if picture.mode not in ("L", "P"):
        raise InputError(
            f"{str(path)!r} has mode {picture.mode}",
            "a label image of one byte a pixel (mode L or P)",
            "colour-coded labels must be converted to class indices",
        )
    return np.array(picture)


def require_same_size(image: Uint8Array, label: Uint8Array, label_path: Path) -> None:
    """Raise ``InputError`` unless label (H, W) covers image (H, W, 3) pixel by pixel."""
    if image.shape[:2] != label.shape:
        raise InputError(
            f"{str(label_path)!r} is {label.shape[0]}x{label.shape[1]}",
            f"the size of its image, {image.shape[0]}x{image.shape[1]}",
        )


def fingerprint_of(paths: Iterable[Path]) -> str:
    """Return names, sizes and times of change of files: cheap, and enough."""
    lines = []
    for path in paths:
        status = path.stat()
        lines.append(f"{path.parent.name}/{path.name} {status.st_size} {status.st_mtime_ns}")
    return "\n".join(lines)


def _open(path: Path) -> Image.Image:
    try:
        picture = Image.open(path)
        picture.load()
        return picture
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{str(path)!r} cannot be read as an image", "a PNG", "copy the file again"
        ) from error


def image_sha256(image: Uint8Array) -> str:
    """Return the SHA-256 of an image's decoded pixels as 64 hex digits.

    Of the pixels at their native size, before any resize: so the hash does not depend on the file's
    name, format or compression, nor on the size at which an artifact was calibrated.

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
