"""What a run left, and the one word for it."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from tests.faults.case import Case

LONGEST_LINE = 1500  # characters of an error
# C0 and C1, and what turns the direction of text or ends a line.
CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]"
)


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        code: exit code, or minus the signal.
        seconds: it took.
        memory: resident bytes above those of the imported libraries.
        orphans: processes that it left.
        out, err: what it printed.
    """

    code: int
    hangs: bool
    seconds: float
    memory: int
    orphans: int
    out: str
    err: str


def verdict(case: Case, result: Result, before: dict[str, str], folder: Path) -> str:
    """Return "" if a run is right; else the fault and what shows it."""
    lines = [line for line in result.err.splitlines() if line.strip()]
    tell = f"exit {result.code}, {result.seconds:.1f} s; {' | '.join(lines[-3:])[:600]}"
    if result.hangs:
        return f"HANG {tell}"
    if result.code < 0:
        return f"CRASH {tell}"
    if "Traceback (most recent call last)" in result.err or "Exception ignored" in result.err:
        return f"TRACEBACK {' | '.join(lines[-8:])[:1500]}"
    if result.memory > case.memory:
        return f"MEMORY {result.memory / 1e9:.1f} GB; {tell}"
    if result.orphans:
        return f"ORPHAN {result.orphans} processes; {tell}"
    after = snapshot(folder)
    refused = result.code not in (0, 1)
    for name, was in before.items():
        if refused and after.get(name) != was and not _may(case, name):
            return f"LOST {name} was {was}, is {after.get(name, 'gone')}; {tell}"
    for name in after.keys() - before.keys():
        temporary = Path(name).name.startswith(".") and not _may(case, name)
        if temporary or (refused and not _may(case, name)):
            return f"HALF-WRITTEN {name}; {tell}"
    if result.code not in case.expected.value:
        return f"{'ACCEPTED' if result.code == 0 else 'WRONG EXIT'} {tell}"
    if noise := _noise(case, result, lines):
        return f"NOISY {noise}; {tell}"
    return (case.check(folder, result) if case.check else "") or ""


def _noise(case: Case, result: Result, lines: list[str]) -> str:
    said = (result.out + result.err).replace("\r\n", "\n")
    if found := CONTROL.search(said):
        return f"the control character {found[0]!r}"
    if result.code != 2 or case.streams.get("err"):
        return ""
    errors = [line for line in lines if line.startswith("error: ")]
    if len(errors) != 1 or not lines[-1].startswith("error: "):
        return f"{len(errors)} lines of error"
    others = [x for x in lines if not x.startswith(("error: ", "  ", "warning: ", "passed over: "))]
    if others:
        return f"beside the error: {others[0][:200]!r}"
    return f"an error of {len(lines[-1])} characters" if len(lines[-1]) > LONGEST_LINE else ""


def _may(case: Case, name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in case.changes)


def snapshot(folder: Path) -> dict[str, str]:
    """What is in a folder, at every depth: name → kind, mode and hash."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root) / name
            found[str(path.relative_to(folder))] = _look(path)
    return found


def _look(path: Path) -> str:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return f"link to {path.readlink()}"
    if stat.S_ISDIR(status.st_mode):
        return "directory"
    if not stat.S_ISREG(status.st_mode):
        return f"special file of mode {status.st_mode:o}"
    if status.st_size > 1 << 28:  # drawn bombs: hashing them would take longer than the run
        return f"{status.st_size} bytes, {status.st_mtime_ns}"
    return f"{stat.S_IMODE(status.st_mode):o} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
