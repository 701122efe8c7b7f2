"""Reading of label images in the forms that tools write them; every error names its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dabnet.data.dataset import Uint8Array
from dabnet.data.image_files import UnreadableFile, open_picture
from dabnet.data.labels import IGNORED, ClassFile, Colour, LabelSet
from dabnet.errors import InputError

_FOREIGN = -1


class ForeignLabel(InputError):
    """A label image holds a value or a colour that stands for nothing."""


@dataclass(frozen=True, slots=True)
class LabelCoding:
    """What the values and the colours of stored label images stand for.

    Attributes:
        labels: the classes.
        values: class, or the label set's ignore value, of each stored value 0…255.
        colours: the same of each stored colour.
        meant: the values, in words for messages.
        fix: what to do about a colour that is missing.
    """

    labels: LabelSet
    values: Mapping[int, int]
    colours: Mapping[Colour, int]
    meant: str
    fix: str = ""

    @classmethod
    def of(
        cls,
        labels: LabelSet,
        values: Mapping[int, int] | None = None,
        ignored_colours: tuple[Colour, ...] = (),
        meant: str = "",
    ) -> LabelCoding:
        """Return the coding of a data set; without ``values`` class k is stored as k."""
        classes = range(len(labels.classes))
        coded = {labels.ignore: labels.ignore, **(values or {k: k for k in classes})}
        coded[IGNORED] = labels.ignore
        colours = dict.fromkeys(ignored_colours, labels.ignore)
        colours.update(zip(labels.palette, classes, strict=True))
        either = " or ".join(map(str, sorted({labels.ignore, IGNORED})))
        return cls(labels, coded, colours, meant or f"0 to {classes[-1]}, or {either} for ignored")

    @classmethod
    def of_file(cls, file: ClassFile) -> LabelCoding:
        """Return what a file of classes says of its masks."""
        labels, values = file.labels, file.values
        coded = dict.fromkeys(file.ignored, labels.ignore)
        coded.update({value: k for k, value in enumerate(values)})
        ignored = ", ".join(map(str, sorted({*file.ignored, IGNORED})))
        named = f"0 to {values[-1]}"
        if values != tuple(range(len(values))):
            named = ", ".join(map(str, values))
        meant = f"{named}, or {ignored} for ignored"
        found = cls.of(labels, coded, file.ignored_colours, meant)
        return replace(found, fix="list the colour in the file of classes")

    @property
    def grey(self) -> bool:
        """Whether all colours are grey (0 0 0 and 255 255 255): masks of one channel hold them."""
        return all(red == green == blue for red, green, blue in self.labels.palette)


def read_label(path: Path, coding: LabelCoding) -> Uint8Array:
    """Read a label image as uint8 (H, W), whose values are classes or the ignore value.

    A picture of one channel (8 or 16 bits, 1 bit, palette) holds the values; one of three or four
    holds the colours of the classes or, if they are all equal, the values. Transparency is left
    out. Where all colours of the classes are grey, a picture of one channel holds these.

    Raises:
        UnreadableFile: the file is missing, is damaged, or is of a kind that holds no labels.
        ForeignLabel: a value or a colour is none of the coding's.
    """
    picture = open_picture(path, exact=True)
    if picture.format in ("JPEG", "MPO"):
        raise UnreadableFile(
            f"{str(path)!r} is a JPEG, which changes labels", "a PNG", "export the masks as PNG"
        )
    if picture.mode in ("RGB", "RGBA", "LA", "PA"):
        return _of_colours(_three_channels(picture), path, coding)
    if picture.mode == "1":
        return _of_values(np.asarray(picture) * np.uint8(255 if coding.grey else 1), path, coding)
    if picture.mode == "P":
        return _of_palette(picture, path, coding)
    if picture.mode == "L" or picture.mode.startswith("I"):
        return _of_values(np.array(picture), path, coding)
    raise UnreadableFile(
        f"{str(path)!r} has mode {picture.mode}",
        "a label image of class indices, or of the colours of the classes",
    )


def _three_channels(picture: Image.Image) -> Uint8Array:
    """Return the pixels of a picture of several channels without alpha, uint8 (H, W, 3)."""
    if picture.mode == "PA":
        picture = picture.convert("RGBA")
    pixels = np.asarray(picture)
    return pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., :1].repeat(3, 2)


def _of_colours(pixels: Uint8Array, path: Path, coding: LabelCoding) -> Uint8Array:
    """Look each colour of uint8 (H, W, 3) up."""
    packed = (pixels.astype(np.uint32) << np.array([16, 8, 0], np.uint32)).sum(2, dtype=np.uint32)
    present, place = np.unique(packed, return_inverse=True)
    known = {red << 16 | green << 8 | blue: k for (red, green, blue), k in coding.colours.items()}
    table = np.array([known.get(int(colour), _FOREIGN) for colour in present])
    if (table != _FOREIGN).all():
        found: Uint8Array = table.astype(np.uint8)[place.reshape(packed.shape)]
        return found
    if (present % 0x010101 == 0).all():  # equal channels: r = g = b
        return _of_values(pixels[..., 0], path, coding)
    foreign = int(present[table == _FOREIGN][0])
    y, x = np.argwhere(packed == foreign)[0]
    raise ForeignLabel(
        f"{str(path)!r} has the colour {foreign >> 16} {foreign >> 8 & 255} {foreign & 255}"
        f" at row {y}, column {x}",
        f"the colours of the {len(coding.labels.classes)} classes, or class indices",
        coding.fix,
    )


def _of_palette(picture: Image.Image, path: Path, coding: LabelCoding) -> Uint8Array:
    """Return the indices of a palette picture; its colours only serve to find a contradiction."""
    indices = np.array(picture)
    table = picture.getpalette("RGB") or []
    present = np.flatnonzero(np.bincount(indices.reshape(-1), minlength=256))
    colours = [tuple(table[3 * i : 3 * i + 3]) for i in map(int, present)]
    by_colour: dict[tuple[int, ...], int] = dict(coding.colours.items())
    meant = [by_colour.get(colour, _FOREIGN) for colour in colours]
    read = [coding.values.get(int(i), _FOREIGN) for i in present]
    # Tools that shrink PNGs number the colours anew. One colour alone may be by chance.
    if len(present) > 1 and _FOREIGN not in meant and meant != read:
        at = next(i for i, (a, b) in enumerate(zip(meant, read, strict=True)) if a != b)
        raise ForeignLabel(
            f"{str(path)!r} has the palette index {present[at]} in the colour"
            f" {' '.join(map(str, colours[at]))}, which is that of another class",
            "the index of a class in its colour",
            "save the masks as RGB, or give the file of classes other colours",
        )
    return _of_values(indices, path, coding)


def _of_values(values: NDArray[np.integer], path: Path, coding: LabelCoding) -> Uint8Array:
    """Look each value of (H, W), of any integer type, up."""
    grey = {red: k for (red, green, blue), k in coding.colours.items() if red == green == blue}
    known = grey if coding.grey else coding.values
    wide = values.dtype != np.uint8
    present = np.unique(values) if wide else np.flatnonzero(np.bincount(values.reshape(-1)))
    foreign = [int(value) for value in present if int(value) not in known]
    if foreign:
        expected = coding.meant
        if coding.grey:
            expected = "the grey values that the file of classes lists, " + ", ".join(
                map(str, sorted(grey))
            )
        raise ForeignLabel(f"{str(path)!r} holds the label value {foreign[0]}", expected)
    table = np.zeros(256, np.uint8)
    table[list(known)] = list(known.values())
    same = all(known[int(value)] == value for value in present)
    label: Uint8Array = values if same and not wide else table[values]  # type: ignore[assignment]
    return label
