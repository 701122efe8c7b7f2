"""One run at a time in a folder, or at a file, so that two never mix what they write."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from dabnet.errors import InputError
from dabnet.files import left_only_if_written, printed_reason, writable_directory

_NAME = "dabnet.lock"
_LONGEST_NAME = 255  # bytes, of most file systems
_TAKEN = (errno.EACCES, errno.EAGAIN)
_RETRY_S = 0.2
_ours: set[Path] = set()
"""Locks of this process, which may take one again within the block that holds it."""


Wait = Callable[[str], None]


@contextmanager
def folder_held(folder: Path, command: str) -> Iterator[None]:
    """Let no other run write into ``folder`` while the block runs.

    The lock is one of fcntl(2) on ``.dabnet.lock`` in the folder, which is made if it is missing,
    and removed again if the block fails before it writes there. The lock says who holds it, and is
    removed at the end. The kernel gives it up when its process ends, however it ends: a file that a
    killed run left is taken over. Where a file system has no locks, the block runs without one.

    Args:
        command: the name of the command, which the other run is told.

    Raises:
        InputError: another run holds the lock, or its file cannot be written.
    """
    with left_only_if_written(folder):
        path = writable_directory(folder) / f".{_NAME}"
        with _held(path, folder, command, None):
            yield


def file_held(file: Path, command: str, wait: Wait | None = None) -> AbstractContextManager[None]:
    """Let no other run write ``file``, in an existing folder, while the block runs.

    As ``folder_held``, with the lock ``.NAME.dabnet.lock`` beside the file.

    Args:
        wait: called once with a line on who holds the lock, which is then waited for. Without it,
            a lock that is held is an error.
    """
    name = f".{file.name}.{_NAME}"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(file.name)).hexdigest()[:16]}.{_NAME}"
    return _held(file.with_name(name), file, command, wait)


@contextmanager
def _held(path: Path, target: Path, command: str, wait: Wait | None) -> Iterator[None]:
    path = path.absolute()
    # A lock of this process is not opened again: to close it then would give it up.
    handle = None if path in _ours else _taken(path, target, wait)
    if handle is None:
        yield
        return
    _ours.add(path)
    try:
        now = datetime.now(timezone.utc).isoformat(sep=" ", timespec="seconds")
        holder = f"{command} (process {os.getpid()} on {socket.gethostname()}, since {now})"
        with suppress(OSError):  # a full disk; the lock is held all the same
            os.ftruncate(handle, 0)
            os.write(handle, f"{holder}\n".encode())
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # while it is held: nobody else can have taken it
        os.close(handle)
        _ours.discard(path)


def _taken(path: Path, target: Path, wait: Wait | None) -> int | None:
    """Return the open file whose lock this process got; None where there are no locks."""
    told = False
    while True:
        handle = _opened(path)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(handle, path):
                return handle
            os.close(handle)  # its holder removed it after it was opened here
        except OSError as error:
            holder = _content(handle) or "another process"
            os.close(handle)
            if error.errno not in _TAKEN:
                return None
            if wait is None:
                given = f"{str(target)!r} is in use by {holder}"
                fix = "wait until it ends, or name another output"
                raise InputError(given, "one run at a time", fix) from error
            if not told:
                wait(f"waiting for {holder}, which writes {target.name}")
                told = True
            time.sleep(_RETRY_S)


def _opened(path: Path) -> int:
    """Open the file of a lock, or make it; never a link, a FIFO or a device."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(path, flags, 0o644)
    except OSError as error:
        raise InputError(
            f"the lock {str(path)!r} cannot be opened ({printed_reason(error)})",
            "a writable directory",
        ) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"the lock {str(path)!r} is no plain file", "none there", "delete it")
    return handle


def _is_at(handle: int, path: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(handle), path.stat())
    return False


def _content(handle: int) -> str:
    with suppress(OSError):
        return os.pread(handle, 400, 0).decode("utf-8", "replace").strip()
    return ""
