"""The classes of a data set and their palette."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dabnet.errors import InputError
from dabnet.files import existing_file

Colour = tuple[int, int, int]
Category = tuple[str, tuple[int, ...]]
"""A name and the class indices it covers."""


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The classes of a data set, in index order.

    Attributes:
        classes: class names; the index in this tuple is the label value.
        palette: one RGB colour (0…255) per class.
        ignore: the label value of pixels that count neither in the loss nor in the score.
        categories: groups of classes that the data set's benchmark scores as well.
    """

    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    ignore: int
    categories: tuple[Category, ...] = ()

    @classmethod
    def of(
        cls, colours: dict[str, Colour], ignore: int, categories: tuple[Category, ...] = ()
    ) -> LabelSet:
        """Return the label set of a table of class names and their colours."""
        return cls(tuple(colours), tuple(colours.values()), ignore, categories)


NO_LABELS = LabelSet((), (), 255)
"""Of images without labels."""


def read_labels(path: str | Path) -> LabelSet:
    """Read a file with one class per line, ``R G B name``, in the order of their indices.

    The format is that of CamVid's ``label_colors.txt``, which annotation tools write too
    (https://docs.cvat.ai/docs/manual/advanced/formats/format-camvid/): three numbers 0…255, then
    the name, between spaces or tabs. Empty lines and those that begin with ``#`` are passed over.

    Raises:
        InputError: there is no such file, a line has another form, a name or a colour occurs twice,
            or there are fewer than 2 or more than 255 classes.
    """
    file, expected = (
        existing_file(path, "a file of classes"),
        "'R G B name', such as '128 64 128 road'",
    )
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is not UTF-8 text", f"lines {expected}") from error
    colours: dict[str, Colour] = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        where = f"line {number} of {str(path)!r}"
        found = re.fullmatch(r"(\d{1,3})\s+(\d{1,3})\s+(\d{1,3})\s+(\S.*)", line)
        if found is None or max(map(int, found.groups()[:3])) > 255:
            raise InputError(f"{line!r} in {where}", expected)
        red, green, blue, name = int(found[1]), int(found[2]), int(found[3]), found[4]
        if name in colours or (red, green, blue) in colours.values():
            raise InputError(f"{line!r} in {where}", "a name and a colour that no other class has")
        colours[name] = red, green, blue
    if not 2 <= len(colours) <= 255:
        given = f"{str(path)!r} names {len(colours)} classes"
        raise InputError(given, f"2 to 255 lines {expected}")
    return LabelSet.of(colours, ignore=255)
