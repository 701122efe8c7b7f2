"""The classes of a data set and their palette."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dabnet.data.lists import read_lines, read_text
from dabnet.errors import InputError, first_line
from dabnet.models import MOST_CLASSES

Colour = tuple[int, int, int]
Category = tuple[str, tuple[int, ...]]
"""A name and the class indices it covers."""


IGNORED = 255
"""The value of a stored label that is ignored in every data set, beside its own."""

_CLASS_LINE = re.compile(r"(?:(\d{1,3})\s+(\d{1,3})\s+(\d{1,3})\s+)?(\d*[^\W\d].*)")
"""Perhaps R G B, and a name, which may begin with a number (3d print) but is none."""

YAML_SUFFIXES = (".yaml", ".yml")

LONGEST_NAME = 100  # characters of the name of a class
MOST_BYTES = 1 << 16  # of a file of classes: 255 names of 100 characters, and colours


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


def is_class_name(name: str) -> bool:
    """Whether tables and pages can show a name: printable characters, not too many."""
    return bool(name.strip()) and name.isprintable() and len(name) <= LONGEST_NAME


NO_LABELS = LabelSet((), (), 255)
"""Of images without labels."""


@dataclass(frozen=True, slots=True)
class ClassFile:
    """What a file of classes says.

    Attributes:
        labels: the classes.
        values: the value of each class in a stored mask.
        ignored: values of a stored mask that are ignored, beside 255.
        ignored_colours: colours of a stored mask that are ignored.
        val_share: share of a folder without splits that is kept for validation, 0 to 1.
        seed: of the draw of that share.
    """

    labels: LabelSet
    values: tuple[int, ...]
    ignored: tuple[int, ...] = ()
    ignored_colours: tuple[Colour, ...] = ()
    val_share: float = 0.2
    seed: int = 0


def read_labels(path: str | Path) -> LabelSet:
    """Return the classes that a file names (``read_class_file``)."""
    return read_class_file(path).labels


def read_class_file(path: str | Path) -> ClassFile:
    """Read a file of classes: text, or YAML where its name ends in .yaml or .yml.

    A text has one class per line, in the order of their indices: ``name`` or ``R G B name``, the
    form of CamVid's ``label_colors.txt``
    (https://docs.cvat.ai/docs/manual/advanced/formats/format-camvid/). Lines that begin with ``#``
    are comments.

    YAML has ``names``, a list, or a map from the value in a mask to the name; and if wanted
    ``colors`` (or ``colours``, ``palette``), a list of [R, G, B] or a map likewise; ``ignore``,
    a value or an [R, G, B] of masks, or a list of these; ``val_share`` and ``seed``.

    A class without a colour has that of its value in Pascal VOC's colour map.

    Raises:
        InputError: there is no such file, a line or a key has another form, a name or a colour
            occurs twice, or there are fewer than 2 or more than 255 classes.
    """
    if Path(path).suffix.lower() in YAML_SUFFIXES:
        return _read_yaml(Path(path))
    expected = "one class per line, 'name' or 'R G B name', such as '128 64 128 road'"
    names: dict[str, Colour | None] = {}
    for number, line in read_lines(path, expected, MOST_BYTES):
        if line.startswith("#"):
            continue
        where = f"{line!r} in line {number} of {str(path)!r}"
        found = _CLASS_LINE.fullmatch(line)
        values = [int(value) for value in found.groups()[:3] if value] if found else []
        if found is None or max(values, default=0) > 255:
            raise InputError(where, expected)
        colour = (values[0], values[1], values[2]) if values else None
        if found[4] in names or (colour and colour in names.values()):
            raise InputError(where, "a name and a colour that no other class has")
        names[found[4]] = colour
    values_of = tuple(range(len(names)))
    return ClassFile(_label_set(names, values_of, IGNORED, path), values_of)


def voc_palette(count: int) -> tuple[Colour, ...]:
    """Return the first ``count`` colours of Pascal VOC's colour map, at most 256.

    The bits of an index go in turn to red, green and blue, the lowest to the highest bit
    (VOCdevkit, ``VOCcode/VOClabelcolormap.m``): 0 is black, 1 (128, 0, 0), 15 (192, 128, 128).
    """

    def channel(index: int, first: int) -> int:
        return sum((index >> (3 * bit + first) & 1) << (7 - bit) for bit in range(8))

    return tuple((channel(i, 0), channel(i, 1), channel(i, 2)) for i in range(count))


def _label_set(
    names: Mapping[str, Colour | None], values: Sequence[int], ignore: int, path: str | Path
) -> LabelSet:
    """Return the classes with the colours given; others have Pascal VOC's of their values."""
    if not 2 <= len(names) <= MOST_CLASSES:
        raise InputError(
            f"{str(path)!r} names {len(names)} classes",
            f"2 to {MOST_CLASSES}: a mask has one byte per pixel, and 255 is ignored",
        )
    for name in names:
        if not is_class_name(name):
            raise InputError(
                f"the class {_short(name)} of {str(path)!r}",
                f"1 to {LONGEST_NAME} printable characters",
            )
    usual = voc_palette(256)
    given = [colour for colour in names.values() if colour]
    # What a listed colour takes from another class is made up from the end of the map.
    left = iter([usual[v] for v in range(254, -1, -1) if v not in values and usual[v] not in given])
    palette = [
        colour or (usual[value] if usual[value] not in given else next(left))
        for value, colour in zip(values, names.values(), strict=True)
    ]
    return LabelSet(tuple(names), tuple(palette), ignore)


def _read_yaml(path: Path) -> ClassFile:
    import yaml

    form = "YAML with names: [road, tree] or names: {0: road, 1: tree}"
    text = read_text(path, form, MOST_BYTES)
    try:
        # An alias (*name) repeats what was read before: a few of them make gigabytes.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise InputError(f"{str(path)!r} has an alias (*)", form, "write its values out")
        content = yaml.load(text, _one_key_each(yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is not YAML ({first_line(error)})", form) from error
    if not isinstance(content, dict) or "names" not in content:
        raise InputError(f"{str(path)!r} has no key 'names'", form)
    reader = _Keys(content, path)
    names = reader.by_value("names", form)
    values = sorted(names)
    colours = reader.colours(values)
    classes: dict[str, Colour | None] = {}
    for value in values:
        name = names[value]
        if not isinstance(name, str) or name in classes:
            given = f"the class {_short(name)} of {str(path)!r}"
            raise InputError(given, "a name that no other class has")
        classes[name] = colours.get(value)
    ignored, ignored_colours = reader.ignore(names, list(colours.values()))
    own = next((value for value in ignored if value >= len(classes)), IGNORED)
    share = content.get("val_share", 0.2)
    if not isinstance(share, int | float) or not 0 < share < 1:
        raise InputError(f"val_share: {share!r} in {str(path)!r}", "a number between 0 and 1")
    seed = content.get("seed", 0)
    if type(seed) is not int or seed < 0:
        raise InputError(f"seed: {seed!r} in {str(path)!r}", "a whole number ≥ 0")
    labels = _label_set(classes, values, own, path)
    return ClassFile(labels, tuple(values), ignored, ignored_colours, float(share), seed)


def _one_key_each(loader: Any) -> Any:
    """A loader that refuses a key that occurs twice, of which PyYAML takes the last."""

    def construct_mapping(self: Any, node: Any, deep: bool = False) -> Any:
        keys = [repr(self.construct_object(key, deep)) for key, _ in node.value]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"the key {_short(twice)} occurs twice")
        return loader.construct_mapping(self, node, deep)

    return type("Loader", (loader,), {"construct_mapping": construct_mapping})


class _Keys:
    """The keys of a YAML file of classes."""

    def __init__(self, content: dict[Any, Any], path: Path) -> None:
        self.content, self.path = content, path

    def by_value(self, key: str, form: str) -> dict[int, Any]:
        """Return a list or a map as a map from mask values 0…254."""
        given = self.content[key]
        found = dict(enumerate(given)) if isinstance(given, list) else given
        if not isinstance(found, dict) or not all(_is_byte(v) and v < IGNORED for v in found):
            raise InputError(
                f"{key}: {_short(given)} in {str(self.path)!r}", f"{form}; values are 0 to 254"
            )
        return found

    def colours(self, values: list[int]) -> dict[int, Colour]:
        key = next((k for k in ("colors", "colours", "palette") if k in self.content), None)
        if key is None:
            return {}
        form = f"{key}: [[128, 64, 128], …], one [R, G, B] per class"
        found = self.by_value(key, form)
        if isinstance(self.content[key], list) and len(found) == len(values):
            found = dict(zip(values, found.values(), strict=True))  # in the order of the classes
        colours = {value: _colour(given) for value, given in found.items()}
        known = [colour for colour in colours.values() if colour]
        right = len(known) == len(set(known)) == len(colours) and colours.keys() <= set(values)
        if not right:
            given = f"{key}: {_short(self.content[key])} in {str(self.path)!r}"
            raise InputError(given, f"{form}, each another one")
        return dict(zip(colours, known, strict=True))

    def ignore(
        self, names: dict[int, Any], colours: list[Colour]
    ) -> tuple[tuple[int, ...], tuple[Colour, ...]]:
        """Return the mask values and the colours that are ignored."""
        given = self.content.get("ignore", IGNORED)
        entries = given if isinstance(given, list) and not _colour(given) else [given]
        values = [entry for entry in entries if _is_byte(entry)]
        ignored = [colour for colour in map(_colour, entries) if colour]
        if len(values) + len(ignored) != len(entries):
            raise InputError(
                f"ignore: {_short(given)} in {str(self.path)!r}",
                "a mask value 0 to 255, an [R, G, B], or a list of them",
            )
        for entry in [*set(values).intersection(names), *set(ignored).intersection(colours)]:
            raise InputError(
                f"ignore: {entry} in {str(self.path)!r} is a class", "a value of no class"
            )
        return tuple(values), tuple(ignored)


def _is_byte(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 255


def _colour(given: Any) -> Colour | None:
    if isinstance(given, list) and len(given) == 3 and all(map(_is_byte, given)):
        return given[0], given[1], given[2]
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"
