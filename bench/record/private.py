"""What would tell who measured, and where: it is left out of every record that is written or read.

Names of files are kept without their folders. Texts of errors and libraries may name anything: in
them an absolute path becomes its last part, and the names of user and host ``USER`` and ``HOST``.
"""

from __future__ import annotations

import getpass
import platform
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.record import Report, Row

_ROOTS = (
    *("home", "root", "Users", "tmp", "var", "mnt", "media", "data", "opt", "usr", "srv", "run"),
    *("private", "Volumes", "scratch", "work", "workspace", "content", "etc"),
)
"""First folders of paths, beside those of this machine: ``/block/Conv`` is a tensor and no path."""
_HOME = re.compile(r"(?:file:/*)?(?:[A-Za-z]:)?[/\\](?:home|Users)[/\\][^/\\]+")
_OUTSIDE = re.compile(r"[/\\~]|\.\.|[A-Za-z]:")
"""Start of a path that leads out of the folder of a record."""
_SENTENCES = ("note", "images")
"""Keys of a manifest whose values are sentences."""
_COMMON = {"root", "user", "ubuntu", "localhost", "cpu", "gpu"}
"""Names of users and hosts that are words of messages, and of nobody."""
_SHORTEST = 3  # characters of a name that is looked for


def private(report: Report) -> Report:
    """The record without paths outside of the run, and without the names of user and host."""
    names = Names.of_this_machine()
    return replace(
        report,
        subjects=tuple(replace(s, file=_last(s.file)) for s in report.subjects),
        dataset="images" if report.dataset in names.known else _last(report.dataset),
        rows=tuple(_private_row(row, names) for row in report.rows),
        pictures=tuple(
            replace(p, file=_last(p.file)) if _OUTSIDE.match(p.file) else p for p in report.pictures
        ),
    )


def _private_row(row: Row, names: Names) -> Row:
    info, accuracy = row.info, row.accuracy
    return replace(
        row,
        reason=names.left_out_of(row.reason),
        info=info and replace(info, notes=tuple(map(names.left_out_of, info.notes))),
        artifact=_last(row.artifact),
        manifest=_private_values(row.manifest, names),
        accuracy=accuracy
        and replace(accuracy, calibrated_on=names.left_out_of(accuracy.calibrated_on)),
    )


def _private_values(value: Any, names: Names, key: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _private_values(item, names, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_private_values(item, names, key) for item in value]
    return names.left_out_of(value) if key in _SENTENCES and isinstance(value, str) else value


def _last(path: str) -> str:
    """The last part of a path of any system; ``~`` for the home of somebody."""
    return "~" if _HOME.fullmatch(path) else re.split(r"[/\\]", path.rstrip("/\\"))[-1]


@dataclass(frozen=True, slots=True)
class Names:
    """What no text of a record may name.

    Attributes:
        user, host: names of who measures, and of the machine.
        folders: home and the folders of this process, without a slash at the end.
        roots: first folders of absolute paths.
    """

    user: frozenset[str]
    host: frozenset[str]
    folders: frozenset[str] = frozenset()
    roots: frozenset[str] = frozenset(_ROOTS)

    @classmethod
    def of_this_machine(cls) -> Names:
        user, folders, roots = set[str](), set[str](), set[str]()
        with suppress(OSError, KeyError, ImportError):  # a user without a name
            user.add(getpass.getuser())
        with suppress(OSError, RuntimeError):
            user.add(Path.home().name)
            folders |= {str(Path.home()), str(Path.home().resolve())}
        with suppress(OSError):  # of a folder that is gone
            folders.add(str(Path.cwd()))
        with suppress(OSError):  # no folder may be written to
            folders.add(tempfile.gettempdir())
        with suppress(OSError):
            roots = {path.name for path in Path("/").iterdir()}
        host = {platform.node(), platform.node().partition(".")[0]}
        return cls(
            frozenset(name for name in user - _COMMON if len(name) >= _SHORTEST),
            frozenset(name for name in host - user - _COMMON if len(name) >= _SHORTEST),
            frozenset(folder for folder in folders if len(folder) > 1),
            frozenset({*_ROOTS, *roots}),
        )

    @property
    def known(self) -> frozenset[str]:
        """The names of user and host."""
        return self.user | self.host

    def left_out_of(self, text: str) -> str:
        """The text without them, and with the last part of each absolute path alone."""
        # What is left of a path may look like another one.
        while "/" in text or "\\" in text:
            before, text = text, self._without_paths(text)
            if text == before:
                break
        for names, instead in ((self.user, "USER"), (self.host, "HOST")):
            for name in sorted(names, key=len, reverse=True):
                text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", instead, text)
        return text

    def _without_paths(self, text: str) -> str:
        for folder in sorted(self.folders, key=len, reverse=True):
            text = re.sub(rf"{re.escape(folder)}(?=[/\\])", "~", text)
        roots, part = "|".join(map(re.escape, self.roots)), r"[^\s'\"`:;,()<>|]*"
        start = rf"(?:file:/*)?(?:~|\.\.|[A-Za-z]:|/(?:{roots}))[/\\]"
        quoted = rf"(?P<quote>['\"`])(?P<path>{start}.*?)(?P=quote)"
        # A folder may have a blank in its name: the next word then holds a slash, too.
        plain = rf"(?<![\w.~/\\-]){start}{part}(?: [\w.-]+[/\\]{part})*"
        text = re.sub(quoted, lambda m: m["quote"] + _last(m["path"]) + m["quote"], text)
        return re.sub(plain, lambda m: _last(m[0]), text)
