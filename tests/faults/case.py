"""A case: files, a command, and what may come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.originals import Originals
    from tests.faults.verdict import Result

GB = 1 << 30
CLOSED, FULL, UNREAD = "closed", "full", "unread"


class Expected(Enum):
    """The exit codes that are right."""

    REFUSED = (2,)
    FINE = (0,)
    EITHER = (0, 2)  # damage that may be of no consequence, such as one flipped bit of a weight
    JUDGED = (0, 1, 2)  # of a command that compares, which exits with 1 for a difference
    QUIET = (141,)  # 128 + SIGPIPE: nobody reads what it prints


REFUSED, FINE, EITHER, JUDGED, QUIET = Expected

Lay = Callable[[Path, "Originals"], Sequence[object]]
"""Write the input into an empty folder and return the command line, which runs there."""


@dataclass(frozen=True)
class Case:
    """One run of one command.

    Attributes:
        family: kind of the input, such as ``checkpoint``.
        name: what is wrong with it; unique in its family.
        lay: writes the input and returns the command line: ``dabnet-train``, ``dabnet-export``,
            ``dabnet-bench``, ``dabnet-data`` or ``dabnet-run`` and its arguments; or
            ``application FILE``, which runs an artifact as the README shows.
        expected: exit codes that are right.
        changes: patterns of files that may be made or changed though the command refuses.
        check: looks at the folder after a run with the right exit code; returns what is wrong.
        seconds: after which a run hangs.
        memory: bytes, resident, above those of the imported libraries.
        environment: changes of it; None removes a variable.
        limits: of ``resource.setrlimit``, by name, such as ``{"RLIMIT_NOFILE": 64}``; RLIMIT_AS is
            counted from the address space of the imported libraries.
        streams: what ``out`` and ``err`` are instead of files: ``CLOSED``, ``FULL`` or ``UNREAD``.
        disks: folders on which a new, empty file system is mounted → its bytes; 0 is read-only.
            The folder must exist. Skipped where the tests do not run as root.
        user: id of the user that runs it; skipped where the tests do not run as root.
    """

    family: str
    name: str
    lay: Lay
    expected: Expected = REFUSED
    changes: tuple[str, ...] = ()
    check: Callable[[Path, Result], str] | None = None
    seconds: float = 30
    memory: int = 4 * GB
    environment: Mapping[str, str | None] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    streams: Mapping[str, str] = field(default_factory=dict)
    disks: Mapping[str, int] = field(default_factory=dict)
    user: int | None = None

    @property
    def id(self) -> str:
        printable = self.name.encode("ascii", "backslashreplace").decode()
        return f"{self.family}: {printable}".replace("[", "(").replace("]", ")")
