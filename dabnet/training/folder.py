"""The folder of a run and the states in it that can be continued."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dabnet.checkpoint import Checkpoint, carries_its_own, load_checkpoint, save_checkpoint
from dabnet.errors import DabnetError, InputError
from dabnet.files import existing_directory, replacing, writable_directory, writable_targets
from dabnet.lock import folder_held

LAST, PREVIOUS, BEST = "last.pth", "previous.pth", "best.pth"
LOG, CURVES, PREDICTIONS, TENSORBOARD = "log.csv", "curves.png", "predictions.png", "tensorboard"
FILES = (LAST, PREVIOUS, BEST, LOG, CURVES, PREDICTIONS)
"""Files of a run; in ``TENSORBOARD`` each process adds files of its own."""


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
def held_for_a_run(folder: Path, resume: Path | None, writes: bool) -> Iterator[None]:
    """Keep ``folder`` for one run while the block runs; make it if it is missing.

    Args:
        resume: the state that the run continues, or None.
        writes: whether this process writes; others of the same run do not.

    Raises:
        InputError: another run is going on there, or it holds what would be overwritten.
    """
    if not writes:
        yield
        return
    with folder_held(folder, "dabnet-train"):
        keep_other_files(folder, resume)
        yield


def keep_other_files(folder: Path, resume: Path | None) -> None:
    """Raise if a run in ``folder`` would overwrite files that are not its own, or cannot write.

    Args:
        resume: the state that the run continues, or None. In its own folder it goes on.
    """
    continues = resume and resume.name in (LAST, PREVIOUS) and _is_same(resume.parent, folder)
    found = [name for name in FILES if os.path.lexists(folder / name)]
    if found and not continues:
        named = ", ".join(found)
        raise InputError(
            f"{str(folder)!r} holds another run ({named})",
            "a new or empty --output",
            f"continue that run with --resume {folder}, or choose another --output",
        )
    writable_targets(folder, dict.fromkeys(FILES))
    if os.path.lexists(folder / TENSORBOARD):
        existing_directory(folder / TENSORBOARD, "the folder of TensorBoard's files")


def _is_same(folder: Path, other: Path) -> bool:
    with suppress(OSError):
        return folder.samefile(other)
    return False


def holds_a_run(folder: Path) -> bool:
    """Whether there is a state in ``folder`` that can be continued."""
    return any(os.path.lexists(folder / name) for name in (LAST, PREVIOUS))


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
