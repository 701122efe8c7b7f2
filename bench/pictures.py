"""Pictures for a person to look at: image, truth, the mask of each row, and its differences."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from bench.measure.accuracy import mask_path
from bench.record import Picture
from dabnet.data.images import SizedImages
from dabnet.files import replacing, writable_directory
from dabnet.pictures import overlay, save_picture

FOLDER = "pictures"
DIFFERENT = np.array((213, 94, 0), np.uint8)
"""Okabe and Ito's vermilion, which colour-blind people tell from grey."""


def save_pictures(
    images: SizedImages,
    kept: list[int],
    masks: Mapping[str, Path],
    references: Mapping[str, str],
    folder: Path,
) -> tuple[Picture, ...]:
    """Write the pictures as JPEG into ``folder / FOLDER``; return them with paths from ``folder``.

    Args:
        images: at the size of the masks.
        kept: numbers of the images to show.
        masks: row → folder of its masks; without any there are no pictures.
        references: row → the one whose masks its own are compared with.
    """
    labels = images.dataset.labels
    writable_directory(folder / FOLDER)
    written = []
    for number in kept if masks else ():
        item = images[number]
        files = {row: mask_path(path, number) for row, path in masks.items()}
        found = {row: np.load(file) for row, file in files.items() if file.is_file()}
        shown = [("image", item.image)]
        if images.labelled:
            shown.append(("truth", overlay(item.image, item.label, labels)))
        for row, mask in found.items():
            shown.append((row, overlay(item.image, mask, labels)))
            if (reference := references.get(row, "")) in found:
                # The image in pale grey, with the pixels that differ in a strong colour.
                grey = (item.image.mean(axis=2, keepdims=True) / 2 + 127).astype(np.uint8)
                differs = (mask != found[reference])[..., None]
                shown.append((f"{row} differs", np.where(differs, DIFFERENT, grey)))
        for what, pixels in shown:
            path = Path(FOLDER) / f"{number:05d}_{re.sub('[ /]', '_', what)}.jpg"
            with replacing(folder / path) as temporary:
                save_picture(Image.fromarray(pixels), temporary, quality=88)
            written.append(Picture(item.name, what, path.as_posix()))
    return tuple(written)
