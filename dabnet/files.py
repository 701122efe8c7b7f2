"""Reading what the user named and writing without ever leaving half a file."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from dabnet.errors import InputError
from dabnet.outputs import Kind

_PART = 32  # characters of a name, of up to four bytes each


def existing_file(path: str | Path, what: str) -> Path:
    """Return ``path`` if it is a non-empty, readable file; ``what`` names its role in the error."""
    path = Path(path)
    status = _status(path)
    if status is None:
        raise InputError(f"no file at {str(path)!r}", what, "check the path")
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{str(path)!r} is a directory", what)
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{str(path)!r} is {_special(status)}", f"{what} (a plain file)")
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


def writable_target(path: str | Path, *sources: str | Path, kind: Kind | None = None) -> Path:
    """Return ``path`` if a file may be written there: checked before long work, not after it.

    A device, a FIFO or a link is never replaced, nor is a file that another command or person wrote
    for something else. An empty file is.

    Args:
        sources: the files that are read to make it: none of them, also through a link, may be
            overwritten.
        kind: of the file that is written; one of another kind is not replaced. None: of any kind.

    Raises:
        InputError: nothing may be written there, and why.
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
    if not _is_directory(path.parent):
        if _status(path.parent) is not None:
            raise InputError(f"{str(path.parent)!r} is a file", "a directory to write in")
        raise InputError(
            f"{str(path.parent)!r} does not exist",
            "an existing directory to write in",
            f"create it with: mkdir -p {path.parent}",
        )
    _refuse_special(path)
    if status is not None and status.st_size > 0 and kind is not None:
        _refuse_other_kind(path, kind)
    _require_writable(path.parent)
    return path


def file_identity(path: str | Path) -> tuple[int, int] | None:
    """Tell a file from all others, also through a link; None where there is none."""
    status = _status(Path(path))
    return None if status is None else (status.st_dev, status.st_ino)


def writable_targets(folder: Path, kinds: Mapping[str, Kind | None], *sources: Path) -> None:
    """Check files of a folder, by their names, as ``writable_target`` does.

    A folder that does not exist yet can be made later.
    """
    if os.path.lexists(folder):
        existing_directory(folder, "a directory to write in")
        for name, kind in kinds.items():
            writable_target(folder / name, *sources, kind=kind)


def refuse_within(output: Path, images: Path) -> None:
    """Raise if the pictures of ``output`` would be found among ``images`` by the next run."""
    try:
        within = output.resolve().is_relative_to(images.resolve())
    except (OSError, RuntimeError):  # a link to itself: it cannot be written to either
        return
    if within:
        given = f"--output {str(output)!r} in the folder of the images {str(images)!r}"
        raise InputError(given, "a folder outside of it", "name another output")


def _refuse_special(path: Path) -> None:
    """Raise if a file cannot be replaced by another one without loss of what it is."""
    try:
        status = path.lstat()
    except OSError:
        return  # nothing is there
    except ValueError as error:
        raise InputError(f"the output {str(path)!r} ({error})", "the name of a file") from error
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        return
    what = f"a link to {str(path.readlink())!r}" if path.is_symlink() else _special(status)
    raise InputError(
        f"the output {str(path)!r} is {what}", "the name of a plain file", "name another output"
    )


def _refuse_other_kind(path: Path, kind: Kind) -> None:
    fix = "name another output, or remove the file"
    try:
        fits = kind.holds(path)
    except OSError as error:
        given = f"the output {str(path)!r} exists and cannot be read ({printed_reason(error)})"
        raise InputError(given, "the name of a new file", fix) from error
    if not fits:
        given = f"the output {str(path)!r} exists and is not {kind.name}"
        raise InputError(given, f"a new file, or {kind.name} to replace", fix)


def _special(status: os.stat_result) -> str:
    if stat.S_ISFIFO(status.st_mode):
        return "a FIFO"
    return "a socket" if stat.S_ISSOCK(status.st_mode) else "a device"


def printed_reason(error: OSError) -> str:
    """Why the system refused, such as ``No space left on device``."""
    return error.strerror or str(error) or type(error).__name__


def writable_directory(path: str | Path) -> Path:
    """Create ``path`` (and its parents) if needed and return it."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{str(path)!r} is a file", "a directory to write in") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise InputError(
            f"{str(path)!r} cannot be created ({getattr(error, 'strerror', error)})",
            "a writable directory",
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


def _is_directory(path: Path) -> bool:
    status = _status(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


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
    a part. The temporary file keeps the suffix, since some writers choose the format by it, and
    gets the mode of the file that it replaces.

    Raises:
        InputError: ``target`` is a device, a FIFO or a link, or the system refuses to write.
    """
    target = Path(target)
    _refuse_special(target)
    # Of a long name only a part: with what is random it must not become too long.
    prefix, suffix = f".{target.stem[:_PART]}.", target.suffix[-_PART:]
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=prefix, suffix=suffix)
    except (OSError, ValueError) as error:
        raise InputError(
            f"nothing can be written in {str(target.parent)!r}"
            f" ({getattr(error, 'strerror', error)})",
            "a writable directory",
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(_mode_of(target))
        temporary.replace(target)
    except OSError as error:
        raise InputError(
            f"{str(target)!r} could not be written ({error.strerror or error})",
            "room on the disk and a writable directory",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _mode_of(target: Path) -> int:
    """The permissions of a file; of a new one those that the umask leaves."""
    try:
        return target.stat().st_mode & 0o777
    except OSError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask


def write_text(target: str | Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``target`` atomically."""
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def left_only_if_written(path: Path) -> Iterator[None]:
    """Remove the folders that the block made on the way to ``path`` if it fails before it writes
    into them."""
    made = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
    try:
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):  # absent, or not empty
                folder.rmdir()
        raise


@contextmanager
def restored_on_failure(path: Path) -> Iterator[None]:
    """Keep ``path`` as it was if the block fails: of two files both are written, or neither."""
    before = path.read_bytes() if path.exists() else None
    try:
        yield
    except BaseException:
        if before is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(before)
        raise


def sha256_of_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's content as 64 hex digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
