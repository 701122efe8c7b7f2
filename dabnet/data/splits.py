"""Names of splits, and whether a network has trained on images of one."""

from __future__ import annotations

from collections.abc import Collection, Iterable

TRAINVAL = "trainval"
"""The split that is train, then val."""
OWN_DATA = "folder"
"""The data set of a user's own pictures and classes: its name does not say which they are."""
_WITHOUT, _ALONE = " without ", " alone"


def fold_of(split: str, sequence: str) -> tuple[str, str]:
    """Name a split without the images of a sequence, and these alone."""
    return f"{split}{_WITHOUT}{sequence}", f"{sequence}{_ALONE}"


def parts_of(split: str) -> tuple[str, str]:
    """Return the split that the user named, and the sequence held out of it, or ""."""
    whole, _, sequence = split.partition(_WITHOUT)
    return whole, sequence


def holds(trained: str, scored: str, sequences: Collection[str] = ()) -> bool:
    """Tell whether a split that trains a network holds images of the one that is scored.

    Args:
        sequences: of the images that are scored (``FilePairs.sequences``), if they have any.
    """
    whole, held_out = parts_of(trained)
    if scored.endswith(_ALONE):
        return scored != f"{held_out}{_ALONE}"
    if held_out and set(sequences) == {held_out}:
        return False
    return whole == scored or (whole == TRAINVAL and scored in ("train", "val"))


def seen_in(
    trained_on: Iterable[str], dataset: str, split: str, sequences: Collection[str] = ()
) -> str:
    """Tell what a network has trained on that holds images of a split.

    Args:
        trained_on: of the network, each ``DATASET SPLIT`` (``dabnet.checkpoint.Checkpoint``).
        dataset, split, sequences: of the images that are scored.

    Returns:
        The last such of ``trained_on``; "" for none, or if nothing is known: two folders of own
        pictures share their name.
    """
    found = [text for text in trained_on if text.startswith(f"{dataset} ")]
    splits = [text.removeprefix(f"{dataset} ") for text in found if dataset != OWN_DATA]
    seen = [each for each in splits if holds(each, split, sequences)]
    return f"{dataset} {seen[-1]}" if seen else ""
