"""Names of splits, and whether a network has trained on images of one."""

from __future__ import annotations

from collections.abc import Iterable

from dabnet.given import OWN_DATA

TRAINVAL = "trainval"
"""The split that is train, then val."""
_WITHOUT, _ALONE = " without ", " alone"


def fold_of(split: str, sequence: str) -> tuple[str, str]:
    """Name a split without the images of a sequence, and these alone."""
    return f"{split}{_WITHOUT}{sequence}", f"{sequence}{_ALONE}"


def parts_of(split: str) -> tuple[str, str]:
    """Return the split that the user named, and the sequence held out of it, or ""."""
    whole, _, sequence = split.partition(_WITHOUT)
    return whole, sequence


def seen_in(trained_on: Iterable[str], dataset: str, split: str) -> str:
    """Tell what a network has trained on that holds images of a split.

    Args:
        trained_on: of the network, each ``DATASET SPLIT`` (``dabnet.checkpoint.Checkpoint``).
        dataset, split: whose images are scored.

    Returns:
        The last such of ``trained_on``; "" for none, or if nothing is known.
    """
    found = [text for text in trained_on if text.startswith(f"{dataset} ")]
    return next((t for t in found[::-1] if _holds(t.removeprefix(f"{dataset} "), split)), "")


def trained_on(seen: str, what: str) -> str:
    """Tell that a network has trained on ``seen`` (``seen_in``), which holds ``what``."""
    if_same = " if it is the same folder" if seen.startswith(f"{OWN_DATA} ") else ""
    return f"trained on {seen}, which holds {what}{if_same}"


def _holds(trained: str, scored: str) -> bool:
    whole, held_out = parts_of(trained)
    if scored.endswith(_ALONE):
        return scored != f"{held_out}{_ALONE}"
    return whole == scored or (whole == TRAINVAL and scored in ("train", "val"))
