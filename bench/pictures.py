"""Pictures for a person to look at: image, truth, the mask of each row, and its differences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from bench.measure.accuracy import mask_path
from bench.record import REFERENCE, Picture
from dabnet.data.dataset import Uint8Array
from dabnet.data.images import SizedImages
from dabnet.files import replacing, writable_directory
from dabnet.pictures import overlay

FOLDER = "pictures"
DIFFERENT = (213, 94, 0)
"""Vermilion of Okabe and Ito's colours, which colour-blind people tell from grey."""


def save_pictures(
    images: SizedImages,
    kept: list[int],
    masks: Mapping[str, Path],
    folder: Path,
) -> tuple[Picture, ...]:
    """Write the pictures as JPEG into ``folder / FOLDER``; return them with paths from ``folder``.

    Args:
        images: what was scored, at the size of the masks.
        kept: numbers of the images to show.
        masks: row → folder of its masks.
        folder: of the record.
    """
    labels = images.dataset.labels
    writable_directory(folder / FOLDER)
    written = []
    for number in kept:
        item = images[number]
        found = {
            row: np.load(mask_path(path, number))
            for row, path in masks.items()
            if mask_path(path, number).is_file()
        }
        shown = [("image", item.image)]
        if images.labelled:
            shown.append(("truth", overlay(item.image, item.label, labels)))
        for row, mask in found.items():
            shown.append((row, overlay(item.image, mask, labels)))
            if row != REFERENCE and REFERENCE in found:
                shown.append((f"{row} differs", _difference(item.image, mask, found[REFERENCE])))
        for what, pixels in shown:
            path = Path(FOLDER) / f"{number:05d}_{what.replace(' ', '_')}.jpg"
            with replacing(folder / path) as temporary:
                Image.fromarray(pixels).save(temporary, quality=88)
            written.append(Picture(item.name, what, path.as_posix()))
    return tuple(written)


def _difference(image: Uint8Array, mask: Uint8Array, reference: Uint8Array) -> Uint8Array:
    """The image in pale grey, with the pixels on which two masks differ in a strong colour."""
    grey = (image.mean(axis=2, keepdims=True) / 2 + 127).astype(np.uint8)
    return np.where((mask != reference)[..., None], np.array(DIFFERENT, np.uint8), grey)
