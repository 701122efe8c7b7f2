"""Text files that people and other tools write: lists of images, lists of classes.

Lists are read as annotation tools, spreadsheets and other machines leave them: UTF-8 with or
without byte order mark, UTF-16 (PowerShell's ``>``), CRLF, backslashes, commas or tabs between the
two paths of a line, quoted names, absolute paths of another machine.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from dabnet.errors import InputError
from dabnet.files import existing_file

Pair = tuple[Path, Path]
"""An image and its label."""

Stems = Callable[[str], "Pair | None"]
"""The pair that a line means which is one name; None for any other line."""

PAIR = "'image label', two paths, per line"
_QUOTED = re.compile(r'"([^"]*)"|\'([^\']*)\'|([^\s,;"\']+)')
GAP = re.compile(r"\s*[,;\t]\s*|\s+")
"""What may be between two names of a line."""


MOST_BYTES = 1 << 26
"""Of a text file."""

MOST_LINES = 200_000
"""Of a list of images, which are looked up one by one."""

LONGEST_LINE = 10_000  # characters


def read_text(path: str | Path, expected: str, most: int = MOST_BYTES) -> str:
    """Return the text of a file in UTF-8 or, with a byte order mark, UTF-16.

    Raises:
        InputError: there is no such file, it is no such text, or it has more than ``most`` bytes.
    """
    file = existing_file(path, expected)
    if (size := file.stat().st_size) > most:
        raise InputError(f"{str(path)!r} has {size} bytes", f"{expected}; at most {most} bytes")
    content = file.read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is not UTF-8 text", expected, "copy it again") from error


def read_lines(
    path: str | Path, expected: str, most: int = MOST_BYTES
) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, stripped, with their numbers from 1."""
    for number, line in enumerate(read_text(path, expected, most).splitlines(), start=1):
        if stripped := line.strip():
            yield number, stripped


def find_file(name: str, directory: Path) -> Path | None:
    """Return the file that a list means by ``name``, or None.

    That is ``name`` itself or, of a path of another machine, the longest tail of it that is a file
    below ``directory``: ``C:\\data\\CamVid\\train\\a.png`` is ``DIR/train/a.png``.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    for start in range(len(parts)):
        path = directory.joinpath(*parts[start:])
        with suppress(OSError):  # such as a line that is longer than a name can be
            if path.is_file():
                return path
    return None


def read_pairs(
    file: Path, directory: Path, fault: Callable[[InputError], None], stems: Stems | None = None
) -> list[Pair]:
    """Return the (image, label) paths that a list names.

    Args:
        file: the list; paths in it are relative to ``directory``.
        fault: is told of a listed file that is missing; it may raise.
        stems: finds the pair of a line that is one name; None refuses such lines.

    Raises:
        InputError: the file is no such list, or lists nothing.
    """
    pairs = []
    form = f"{PAIR}, or one name" if stems else PAIR
    for number, line in read_lines(file, form):
        where = f"line {number} of {str(file)!r}"
        if number > MOST_LINES or len(line) > LONGEST_LINE:
            expected = f"at most {MOST_LINES} lines of at most {LONGEST_LINE} characters"
            raise InputError(f"{where} is too much", expected)
        pair = stems(line) if stems else None
        splits = [] if pair else list(_splits(line))
        found = [(find_file(a, directory), find_file(b, directory)) for a, b in splits]
        # A name with spaces and no quotes: the one place where both sides are files.
        whole = [(a, b) for a, b in found if a and b and a != b]
        if pair or len(whole) == 1:
            pairs.append(pair or whole[0])
            continue
        if not splits and stems:
            fault(InputError(f"{line!r}, named in {where}, is missing", "an image and its mask"))
            continue
        if len(splits) != 1 or None not in found[0]:
            raise InputError(f"{where} is {line!r}", form)
        missing = next(n for n, path in zip(splits[0], found[0], strict=True) if path is None)
        path = directory / missing
        fault(
            InputError(
                f"{str(path)!r}, named in line {number} of {file.name}, is missing",
                "every listed file to be there",
                "copy the data set again",
            )
        )
    return pairs


def _splits(line: str) -> Iterator[tuple[str, str]]:
    """Yield how a line may fall into two names: as its quotes say, or at any of its gaps."""
    if '"' in line or "'" in line:
        names = ["".join(match) for match in _QUOTED.findall(line)]
        if len(names) == 2:
            yield names[0], names[1]
            return
    for gap in GAP.finditer(line):
        yield line[: gap.start()], line[gap.end() :]
