"""Reading what the user named and writing without ever leaving half a file."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dabnet.errors import InputError


def existing_file(path: str | Path, what: str) -> Path:
    """Return ``path`` if it is a non-empty, readable file; ``what`` names its role in the error."""
    path = Path(path)
    status = _status(path)
    if status is None:
        raise InputError(f"no file at {str(path)!r}", what, "check the path")
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{str(path)!r} is a directory", what)
    if not os.access(path, os.R_OK):
        raise InputError(f"{str(path)!r} cannot be read", what, "check its permissions")
    if status.st_size == 0:
        raise InputError(f"{str(path)!r} is empty", what, "write or download it again")
    return path


def existing_directory(path: str | Path, what: str) -> Path:
    """Return ``path`` if it is a directory; ``what`` names its role in the error."""
    path = Path(path)
    status = _status(path)
    if status is None:
        raise InputError(f"no directory at {str(path)!r}", what, "check the path")
    if not stat.S_ISDIR(status.st_mode):
        raise InputError(f"{str(path)!r} is a file", f"{what} (a directory)")
    return path


def writable_target(path: str | Path, *sources: str | Path) -> Path:
    """Return ``path`` if a file may be written there: checked before long work, not after it.

    ``sources`` are the files that are read to make it: none of them, also through a link, may be
    overwritten.
    """
    path = Path(path)
    status = _status(path)
    for source in sources:
        other = _status(Path(source))
        if status is not None and other is not None and os.path.samestat(status, other):
            same = "itself" if path == Path(source) else repr(str(source))
            raise InputError(
                f"the output {str(path)!r} is the input {same}",
                "another name",
                "name another output",
            )
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise InputError(f"{str(path)!r} is a directory", "the name of a file to write")
    if not path.parent.is_dir():
        raise InputError(
            f"{str(path.parent)!r} does not exist",
            "an existing directory to write in",
            f"create it with: mkdir -p {path.parent}",
        )
    _require_writable(path.parent)
    return path


def writable_directory(path: str | Path) -> Path:
    """Create ``path`` (and its parents) if needed and return it."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{str(path)!r} is a file", "a directory to write in") from error
    except OSError as error:
        raise InputError(
            f"{str(path)!r} cannot be created ({error.strerror})", "a writable directory"
        ) from error
    _require_writable(path)
    return path


def _require_writable(directory: Path) -> None:
    try:  # os.access says yes to root even where nothing can be created
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise InputError(
            f"{str(directory)!r} cannot be written to ({error.strerror})", "a writable directory"
        ) from error


def _status(path: Path) -> os.stat_result | None:
    """Return what ``stat(2)`` says of ``path``, or None where nothing is there."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:  # such as a name that is too long, or a folder that is not ours
        raise InputError(f"{str(path)!r} cannot be looked up ({error.strerror})") from error


@contextmanager
def replacing(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target`` that becomes ``target`` only if the block succeeds.

    The rename is atomic (POSIX ``rename(2)``): a reader sees the old file or the new one, never
    a part. The temporary file keeps the suffix, since some writers choose the format by it.
    """
    target = Path(target)
    try:
        handle, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.stem}.", suffix=target.suffix
        )
    except OSError as error:
        raise InputError(
            f"nothing can be written in {str(target.parent)!r} ({error.strerror})",
            "a writable directory",
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except OSError as error:
        raise InputError(
            f"{str(target)!r} could not be written ({error.strerror or error})",
            "room on the disk and a writable directory",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(target: str | Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``target`` atomically."""
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256_of_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's content as 64 hex digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
