"""Masks as colours, and panels that put pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dabnet.data.dataset import Uint8Array
from dabnet.data.labels import LabelSet

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
