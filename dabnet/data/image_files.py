"""Reading of images; every error names its file."""

from __future__ import annotations

import hashlib
import logging
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dabnet.data.dataset import Uint8Array
from dabnet.errors import InputError, first_line

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
"""By content, whatever the name says. Others may start programs: Pillow runs ghostscript on EPS."""

MOST_PIXELS = 89_478_485
"""Of an image: Pillow's own limit (``Image.MAX_IMAGE_PIXELS``), 256 MiB of RGB."""

# Of damaged files it warns and logs beside its error, or where these readers refuse.
warnings.filterwarnings("ignore", module="PIL")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
logging.getLogger("PIL").addHandler(logging.NullHandler())

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
"""Of files that are looked at in a folder."""

_DAMAGES = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error),
    *(EOFError, Image.DecompressionBombError, MemoryError, OverflowError),
    *(IndexError, AttributeError, NotImplementedError, RuntimeError),
)
"""What Pillow's readers raise of damaged files."""


class UnreadableFile(InputError):
    """A file is no image, is damaged, or is of a kind that is not read."""


def is_image(path: Path) -> bool:
    """Whether a file in a folder is an image by its name; ``._a.png`` of macOS is none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def read_image(path: Path) -> Uint8Array:
    """Read an image as uint8 (H, W, 3), RGB, upright as its EXIF tag says.

    Grey, palette and CMYK become RGB, transparency is left out, and of several frames or pages the
    first is read. Of 16 bits per channel the upper 8 are kept, whatever part of the range is used:
    a 12-bit camera's pictures should be stored over the whole range.

    Raises:
        UnreadableFile: the file is missing, is damaged, is no image or has numbers of another kind.
    """
    picture = open_picture(path)
    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        if values.min(initial=0) >= 0 and values.max(initial=0) <= 0xFFFF:
            return (values >> 8).astype(np.uint8)[..., None].repeat(3, 2)
    if picture.mode.startswith(("I", "F")):  # converting would clip at 255, not scale
        raise UnreadableFile(
            f"{str(path)!r} has mode {picture.mode}",
            "8 or 16 bits per channel",
            "convert it to an 8-bit image",
        )
    if "transparency" in picture.info:  # Pillow warns of a palette's, unless it is kept for a time
        picture = picture.convert("RGBA")
    return np.array(picture.convert("RGB"))


def open_picture(path: Path, exact: bool = False) -> Image.Image:
    """Open and decode a file of ``FORMATS``, turned upright as its EXIF tag says.

    Args:
        exact: refuse what Pillow scales as it reads, which labels do not survive.

    Raises:
        UnreadableFile: the file is missing, is damaged, or is no such image.
    """
    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise Image.DecompressionBombError(f"{picture.height}x{picture.width} pixels")
            scaled = [
                tile
                for tile in picture.tile
                if tile[0].startswith("ppm") or (";16" in str(tile[3]) and picture.mode[0] != "I")
            ]
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
    except _DAMAGES as error:
        raise UnreadableFile(
            f"{str(path)!r} cannot be read as an image ({first_line(error)})",
            f"a whole {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file of at most"
            f" {MOST_PIXELS} pixels",
            "copy the file again",
        ) from error
    if exact and scaled:
        raise UnreadableFile(
            f"{str(path)!r} has 16 bits per channel or another range than 0 to 255",
            "a label image of one channel, or of 8 bits per channel",
        )
    upright: Image.Image = picture
    return upright


def stored_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image as it is stored, before its EXIF tag turns it."""
    with Image.open(path, formats=FORMATS) as picture:
        return picture.height, picture.width


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
