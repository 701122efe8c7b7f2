"""Text for streams whose encoding lacks some of its characters."""

from __future__ import annotations

import codecs
import os
from typing import TextIO

ASCII = {
    "…": "...",
    "–": "-",
    "−": "-",
    "×": "x",
    "→": "->",
    "≥": ">=",
    "≤": "<=",
    "±": "+-",
    "‖": "||",
    "µ": "u",
    "Δ": "diff",
    "†": "*",
    "‡": "**",
    "─": "-",  # torchinfo's
    "│": "|",
    "├": "|",
    "└": "`",
}
"""What stands for the characters of this project's own texts, and of a library's."""

ERRORS = "dabnet-ascii"
"""Handler of encoding errors: one of ``ASCII``, or an escape such as ``\\xe9``."""


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    first = error.object[error.start]
    if first in ASCII:
        return ASCII[first], error.start + 1
    return first.encode("ascii", "backslashreplace").decode("ascii"), error.start + 1


codecs.register_error(ERRORS, _replace)


def adapt(stream: TextIO) -> None:
    """Let a stream take any text.

    ``LC_ALL=C`` asks for ASCII, though Python writes UTF-8 then. PYTHONIOENCODING and PYTHONUTF8
    say otherwise.
    """
    if hasattr(stream, "reconfigure"):
        plain = os.environ.get("LC_ALL") in ("C", "POSIX")
        said = os.environ.get("PYTHONIOENCODING") or os.environ.get("PYTHONUTF8")
        stream.reconfigure(encoding="ascii" if plain and not said else None, errors=ERRORS)


def adapted(text: str, encoding: str | None) -> str:
    """``text`` as a stream of this encoding will show it, before a table is laid out."""
    return text.encode(encoding or "utf-8", ERRORS).decode(encoding or "utf-8")
