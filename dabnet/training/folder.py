"""The folder of a run and the states in it that can be continued."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dabnet.checkpoint import Checkpoint, carries_its_own, load_checkpoint, save_checkpoint
from dabnet.errors import DabnetError, InputError
from dabnet.files import replacing, writable_directory

LAST, PREVIOUS, BEST = "last.pth", "previous.pth", "best.pth"


class RunFolder:
    """Keeps the state of a run twice, so that a damaged file costs at most one save.

    Args:
        path: the folder; it is created if it is missing.
        resumed: the state that the run continues from, known to be good.
    """

    def __init__(self, path: Path, resumed: Path | None = None) -> None:
        self.path = writable_directory(path)
        self._last_is_good = resumed == path / LAST

    @property
    def last(self) -> Path | None:
        """The newest state that is known to be good."""
        return self.path / LAST if self._last_is_good else None

    def save_last(self, checkpoint: Checkpoint) -> None:
        """Write ``last.pth``; the one before it, if it is known to be good, is ``previous.pth``."""
        last = self.path / LAST
        if self._last_is_good:
            with replacing(self.path / PREVIOUS) as temporary:
                shutil.copyfile(last, temporary)
        save_checkpoint(checkpoint, last)
        self._last_is_good = True

    def save_best(self, checkpoint: Checkpoint) -> None:
        save_checkpoint(checkpoint, self.path / BEST)


@contextmanager
def left_only_if_written(path: Path) -> Iterator[None]:
    """Remove the folders that the block made on the way to ``path`` if it fails before it writes
    into them."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):  # absent, or not empty
                folder.rmdir()
        raise


def holds_a_run(folder: Path) -> bool:
    """Whether a new run in ``folder`` would overwrite the state of another one."""
    return any((folder / name).exists() for name in (LAST, PREVIOUS))


def newest_state(resume: Path) -> tuple[Path, str]:
    """Return the newest undamaged state of a run, and a warning if it is not the last one.

    Args:
        resume: the folder of a run, its ``last.pth``, or any other checkpoint.
    """
    if resume.is_dir():
        if not holds_a_run(resume):
            raise InputError(
                f"{str(resume)!r} is a directory without {LAST}", "the folder of a run, or its file"
            )
        resume = resume / LAST
    others = [resume.with_name(PREVIOUS)] if resume.name == LAST else []
    try:
        load_checkpoint(resume)
        return resume, ""
    except DabnetError as error:
        for other in others:
            try:
                load_checkpoint(other)
            except DabnetError:
                continue
            return other, f"{error}; continuing from {str(other)!r}"
        if not isinstance(error, InputError) or carries_its_own(resume):
            raise
        raise InputError(
            f"{str(resume)!r} holds no state of a segmentation run",
            f"the {LAST} of one",
            "start from its weights with --init, or continue a classifier with --stage classifier",
        ) from error
