"""What a machine lacks, as one line: memory, disk, open files, processes.

Libraries report it by many exceptions. None of them is a fault of this project.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from dabnet.errors import DabnetError, first_line


class Starved(DabnetError):
    """The machine, or a limit of it, has too little of what the work needs."""


_MEMORY = (
    "a machine or container with more memory",
    "take a smaller --size, --input-size or batch, or raise the limit (ulimit -v)",
)
_SHARED = (
    "more than docker's usual 64 MB of /dev/shm for the workers' batches",
    "start the container with --shm-size 1g or --ipc host, or pass --num-workers 0",
)
_WORKER = (
    "workers that run to the end",
    "often the machine is short of memory: pass fewer --num-workers, or 0, and --resume",
)
_DISK = ("free space", "free some, or write elsewhere (temporary files: the variable TMPDIR)")
_READ_ONLY = ("a folder that can be written", "name another folder")
_ACCESS = ("a file or folder that this user may use", "change its permissions, or name another")
_FILES = ("more open files", "raise the limit (ulimit -n 1024), or pass fewer --num-workers")
_PROCESSES = (
    "more processes and threads",
    "raise the limit (ulimit -u), or set OMP_NUM_THREADS=1 and --num-workers 0",
)
_TEMPORARY = ("a folder for temporary files", "set TMPDIR to one that can be written")

_BY_NUMBER = {
    errno.ENOMEM: _MEMORY,
    errno.ENOSPC: _DISK,
    errno.EDQUOT: _DISK,
    errno.EFBIG: _DISK,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS,
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.EAGAIN: _PROCESSES,
}
_BY_TEXT = {
    "shared memory": _SHARED,
    "(shm)": _SHARED,
    "</torch_": _SHARED,  # a file of /dev/shm
    "dataloader worker (pid": _WORKER,  # and how it ended
    "no usable temporary directory": _TEMPORARY,
    "defaultcpuallocator": _MEMORY,
    "bad_alloc": _MEMORY,
    "failed to allocate memory": _MEMORY,
    "cannot allocate memory": _MEMORY,
    "out of memory": _MEMORY,
    "failed to map segment": _MEMORY,  # of a library that is imported
    "too many open files": _FILES,
    "no space left on device": _DISK,
    "can't start new thread": _PROCESSES,
    "resource temporarily unavailable": _PROCESSES,
}
_TOLD_BY_TEXT = (RuntimeError, ImportError, OSError)
"""Classes of the errors of PyTorch, ONNX Runtime and the loader of libraries."""


def lack_of(error: BaseException) -> Starved | None:
    """Return what the machine lacks if ``error``, or an error that it comes from, says so."""
    for cause in _causes(error):
        if way_out := _way_out(cause):
            return Starved(_said(cause), *way_out)
    return None


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether ``error`` itself says that memory ran out, of the host or a GPU."""
    return _way_out(error) is _MEMORY


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _way_out(error: BaseException) -> tuple[str, str] | None:
    if isinstance(error, MemoryError):
        return _MEMORY
    if isinstance(error, _TOLD_BY_TEXT) or _is_of_onnxruntime(error):
        text = str(error).lower()
        for sign, way_out in _BY_TEXT.items():
            if sign in text:
                return way_out
    if isinstance(error, OSError):
        return _BY_NUMBER.get(error.errno or 0)
    return None


def _is_of_onnxruntime(error: BaseException) -> bool:
    return type(error).__module__.startswith("onnxruntime")


def _said(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, OSError) and error.strerror:
        where = f": {str(error.filename)!r}" if error.filename else ""
        return f"{error.strerror}{where}"
    lines = str(error).splitlines()
    told = [line for line in lines if any(sign in line.lower() for sign in _BY_TEXT)]
    text = told[-1].strip()[:200] if told else first_line(error)
    return f"out of memory ({text})" if _way_out(error) is _MEMORY else text
