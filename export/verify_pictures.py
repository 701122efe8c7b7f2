"""Pictures of where two artifacts differ, for a person to look at."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dabnet.data.dataset import Uint8Array
from dabnet.data.labels import LabelSet
from dabnet.files import replacing
from dabnet.pictures import overlay, panel
from dabnet.preprocessing import Preprocessing
from export.compared import Declared
from export.verify import Picture

DIFFERENT = (255, 0, 255)
"""Magenta, on a picture that is otherwise grey."""

DIMMED = 0.45


def save_worst(a: Declared, b: Declared, pictures: Sequence[Picture], folder: Path) -> list[Path]:
    """Write a panel of each picture, image | A | B | where they differ, and return the paths.

    Files are ``worst_01_NAME.png`` on, the worst first.
    """
    # Only the palette is drawn with; pixels of no class do not come from an artifact.
    labels = LabelSet(a.classes, a.palette, 255, Preprocessing((0.0, 0.0, 0.0)))
    written = []
    for number, picture in enumerate(pictures, start=1):
        stem = re.sub(r"[^\w.-]+", "_", str(Path(picture.name).with_suffix("")))
        path = folder / f"worst_{number:02}_{stem}.png"
        shown = [
            (picture.name, picture.image),
            (f"A: {a.path.name}", overlay(picture.image, picture.mask_a, labels)),
            (f"B: {b.path.name}", overlay(picture.image, picture.mask_b, labels)),
            (
                f"differ: {100 * (1 - picture.agreement):.3f} % of pixels",
                differing(picture.image, picture.mask_a, picture.mask_b),
            ),
        ]
        with replacing(path) as temporary:
            panel(shown).save(temporary)
        written.append(path)
    return written


def differing(image: Uint8Array, mask_a: Uint8Array, mask_b: Uint8Array) -> Uint8Array:
    """The image (H, W, 3) in dim grey, magenta where the masks (H, W) differ."""
    grey = (DIMMED * image.mean(axis=2)).astype(np.uint8)
    shown = np.repeat(grey[..., None], 3, axis=2)
    shown[mask_a != mask_b] = DIFFERENT
    return shown
