"""Masks as colours, and panels that put pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from dabnet.data.dataset import LabelledImage, Uint8Array
from dabnet.data.labels import LabelSet
from dabnet.outputs import MARK

SOFTWARE = 0x0131
"""Tag of TIFF and EXIF: the program that made a picture."""
CAPTION_HEIGHT = 22
OPACITY = 0.6


def colourise(mask: Uint8Array, labels: LabelSet) -> Uint8Array:
    """Class indices uint8 (H, W) → RGB uint8 (H, W, 3); ignored pixels are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(labels.palette)] = labels.palette
    return table[mask]


def overlay(image: Uint8Array, mask: Uint8Array, labels: LabelSet) -> Uint8Array:
    """Lay the colours of a mask (H, W) over its image (H, W, 3); ignored pixels stay bare."""
    blended = (1 - OPACITY) * image + OPACITY * colourise(mask, labels)
    known = (mask < len(labels.palette))[..., None]
    return np.where(known, blended.round().astype(np.uint8), image)


def panel(pictures: Sequence[tuple[str, Uint8Array]], columns: int | None = None) -> Image.Image:
    """Arrange captioned pictures of one size, (H, W, 3), in rows of two, or three if many."""
    height, width = pictures[0][1].shape[:2]
    columns = columns or min(len(pictures), 3 if len(pictures) > 4 else 2)
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * (height + CAPTION_HEIGHT)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for number, (caption, picture) in enumerate(pictures):
        row, column = divmod(number, columns)
        x, y = column * width, row * (height + CAPTION_HEIGHT)
        draw.text((x + 6, y + 3), caption, fill="black", font=font)
        sheet.paste(Image.fromarray(picture), (x, y + CAPTION_HEIGHT))
    return sheet


def legend(labels: LabelSet, width: int) -> Image.Image:
    """Name the classes beside their colours, in columns over ``width`` pixels."""
    cell = 240
    columns = max(1, width // cell)
    rows = -(-len(labels.classes) // columns)
    sheet = Image.new("RGB", (width, rows * CAPTION_HEIGHT), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for index, (name, colour) in enumerate(zip(labels.classes, labels.palette, strict=True)):
        row, column = divmod(index, columns)
        x, y = column * cell + 6, row * CAPTION_HEIGHT
        draw.rectangle((x, y + 4, x + 14, y + 18), fill=colour, outline="black")
        draw.text((x + 22, y + 3), f"{index} {name}"[:30], fill="black", font=font)
    return sheet


def labelled_sheet(items: Sequence[LabelledImage], labels: LabelSet) -> Image.Image:
    """Show images under their labels, whatever their sizes, over a legend of the classes."""
    height, width = 180, 240
    tiles = []
    for item in items:
        shown = Image.fromarray(overlay(item.image, item.label, labels))
        shown.thumbnail((width, height))
        tile = Image.new("RGB", (width, height), "white")
        tile.paste(shown, ((width - shown.width) // 2, (height - shown.height) // 2))
        tiles.append((item.name[-32:], np.asarray(tile)))
    pictures = panel(tiles, columns=4)
    names = legend(labels, pictures.width)
    sheet = Image.new("RGB", (pictures.width, pictures.height + names.height), "white")
    sheet.paste(pictures, (0, 0))
    sheet.paste(names, (0, pictures.height))
    return sheet


def save_picture(picture: Image.Image, path: Path, **options: Any) -> None:
    """Write a picture that is told from those of others by its metadata (``outputs.PICTURE``).

    BMP and PPM have none. ``options`` are those of Pillow's ``save``.
    """
    suffix = path.suffix.lower()
    if suffix == ".png":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_text("Software", MARK)
    elif suffix in (".jpg", ".jpeg", ".gif"):
        options["comment"] = MARK.encode()
    elif suffix in (".tif", ".tiff"):
        options["tiffinfo"] = {SOFTWARE: MARK}
    elif suffix == ".webp":
        options["exif"] = Image.Exif()
        options["exif"][SOFTWARE] = MARK
    picture.save(path, **options)
