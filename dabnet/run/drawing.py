"""What is drawn of a mask: its colours over the frame, or its values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dabnet.data.cityscapes import CITYSCAPES, CITYSCAPES_ID_TO_TRAIN_ID
from dabnet.data.dataset import Uint8Array
from dabnet.data.labels import MOST_BYTES, Colour
from dabnet.data.lists import read_lines
from dabnet.errors import InputError
from dabnet.pictures import OPACITY
from dabnet.run import INDICES, LABEL_IDS, OVERLAY

_LINE = re.compile(r"(\d{1,3})\s+(\d{1,3})\s+(\d{1,3})\s+(\S.*)")


class Drawing:
    """Draws masks of ``classes`` in ``palette``.

    Args:
        write: one of ``dabnet.run.WRITTEN``.

    Attributes:
        none: how a pixel of no class is drawn.

    Raises:
        InputError: Cityscapes' ids are asked for, and the classes are others.
    """

    def __init__(
        self, classes: Sequence[str], palette: Sequence[Colour], write: str = OVERLAY
    ) -> None:
        self.palette = tuple(palette)
        self._write = write
        self.none = {OVERLAY: "in grey", INDICES: "as 255", LABEL_IDS: "as 0"}[write]
        table = np.zeros((256, 3), np.uint8)
        table[: len(palette)] = palette
        self._colours = table.tobytes()
        self._values = np.arange(256, dtype=np.uint8)
        if write == LABEL_IDS:
            self._values = _label_ids(classes)

    def draw(self, image: Uint8Array, mask: Uint8Array) -> Image.Image:
        """Return the overlay, RGB, or the values of the mask, L, at the size of the image.

        Args:
            image: uint8 (H, W, 3), RGB.
            mask: uint8 (h, w) of any size, class indices. Where it has another value, the overlay
                is the image in grey: palettes have greys of their own.
        """
        frame = Image.fromarray(image)
        if self._write != OVERLAY:
            values = Image.fromarray(self._values[mask])
            return values.resize(frame.size, Image.Resampling.NEAREST)
        classes = Image.fromarray(mask).resize(frame.size, Image.Resampling.NEAREST)
        classes.putpalette(self._colours)
        drawn = Image.blend(frame, classes.convert("RGB"), OPACITY)
        if (none := mask >= len(self.palette)).any():
            where = Image.fromarray(none).resize(frame.size, Image.Resampling.NEAREST)
            drawn.paste(frame.convert("L").convert("RGB"), mask=where)
        return drawn


def read_class_map(
    path: Path, classes: Sequence[str], palette: Sequence[Colour]
) -> tuple[Colour, ...]:
    """Return ``palette`` with the colours that a file gives, a line ``R G B name`` each.

    Lines that begin with ``#`` are comments.

    Raises:
        InputError: there is no such file, a line has another form, or names no class.
    """
    expected = "'R G B name' per line, such as '128 64 128 road'"
    colours: dict[str, Colour] = {}
    for number, line in read_lines(path, expected, MOST_BYTES):
        if line.startswith("#"):
            continue
        where = f"{line!r} in line {number} of {str(path)!r}"
        found = _LINE.fullmatch(line)
        values = [int(value) for value in found.groups()[:3]] if found else []
        if found is None or max(values) > 255:
            raise InputError(where, expected)
        if found[4] not in classes:
            raise InputError(where, "a class of the artifact: " + ", ".join(classes))
        if found[4] in colours:
            raise InputError(where, "each class once")
        colours[found[4]] = (values[0], values[1], values[2])
    return tuple(colours.get(name, own) for name, own in zip(classes, palette, strict=True))


def _label_ids(classes: Sequence[str]) -> Uint8Array:
    """The id of each class that the Cityscapes server takes, uint8 (256,); 0 for no class."""
    if tuple(classes) != CITYSCAPES.classes:
        given = f"--write {LABEL_IDS} for {len(classes)} classes ({classes[0]}, …)"
        raise InputError(given, "an artifact of Cityscapes' 19 classes", f"use --write {INDICES}")
    ids = np.zeros(256, np.uint8)
    ids[: len(classes)] = [CITYSCAPES_ID_TO_TRAIN_ID.index(k) for k in range(len(classes))]
    return ids
