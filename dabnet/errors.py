"""The errors a user can meet. Each is one line: what was given, what was expected, how to fix it.

The commands print that line after ``error:`` and exit with code 2, without a traceback. Anything
that is not a ``DabnetError`` is a fault of this project and keeps its traceback.
"""

from __future__ import annotations

PASCAL_STACK = (
    "pip install --extra-index-url https://pypi.nvidia.com -c constraints/pascal.txt '.[pascal]'"
)
"""What to install for a GTX 10 card."""


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
        super().__init__(" ".join("; ".join(parts).split()))


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
