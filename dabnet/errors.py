"""The errors a user can meet. Each is one line: what was given, what was expected, how to fix it.

The commands print that line after ``error:`` and exit with code 2, without a traceback. Anything
that is not a ``DabnetError`` is a fault of this project and keeps its traceback.
"""

from __future__ import annotations

import re

PASCAL_STACK = (
    "pip install --extra-index-url https://pypi.nvidia.com -c constraints/pascal.txt '.[pascal]'"
)
"""What to install for a GTX 10 card."""


# C0 and C1, what turns the direction of text, what ends a line, and halves of surrogate pairs.
_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]"
)
_LONGEST = 1000  # characters of a message


def printable(text: str) -> str:
    """Names from files and folders as any terminal may show them: ``ESC`` becomes ``\\x1b``."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def shortened(text: str, longest: int = _LONGEST) -> str:
    """``text``, of which the middle is left out if it is longer than ``longest`` characters."""
    half = (longest - 3) // 2
    return text if len(text) <= longest else f"{text[:half]} … {text[-half:]}"


class DabnetError(Exception):
    """What was given, what was expected, how to fix it.

    Args:
        given: the value or state that was met, with its name ("no file at 'model.pth'").
        expected: what would have been right ("a checkpoint written by dabnet-train").
        fix: a command or an action that leads out.
    """

    def __init__(self, given: str, expected: str = "", fix: str = "") -> None:
        parts = [given]
        if expected:
            parts.append(f"expected {expected}")
        if fix:
            parts.append(fix)
        super().__init__(shortened(printable(" ".join("; ".join(parts).split()))))


class InputError(DabnetError):
    """A file, a folder or an option that the user gave cannot be used."""


class ArtifactError(DabnetError):
    """An artifact (checkpoint, ONNX, engine) or its manifest is damaged, foreign or mismatched."""


class BuildError(DabnetError):
    """An export or an engine build did not give what was asked for."""


class BackendUnavailable(DabnetError):
    """A backend cannot run here: a package, a device or a driver is missing.

    ``dabnet-bench`` turns this into a row that says why; the other commands stop with it.
    """


def first_line(error: BaseException) -> str:
    """The start of a library's error, for a message of one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


class MissingPackage(BackendUnavailable):
    """An optional package is not installed; ``extra`` of setup.cfg brings it, or ``fix``."""

    def __init__(self, package: str, extra: str = "", fix: str = "") -> None:
        fix = fix or f"install it with: pip install '.[{extra}]'"
        super().__init__(f"the package {package!r} is not installed", fix=fix)
