"""Reads a file of numbers that a command keeps for the next run, and computes with them.

It exits with 0 if it used them, and with 2 if they are measured anew, as the command would.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from dabnet.errors import DabnetError, InputError


def main() -> None:
    _, kind, file, *data = sys.argv
    try:
        print(READERS[kind](file, *data))
    except DabnetError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _anew() -> InputError:
    return InputError("no numbers that can be used", "those of an earlier run")


def _budget(file: str) -> object:
    from export.int8.budget import Budget, Notebook
    from export.int8.trial import Outcome

    def measure() -> Outcome:
        raise _anew()

    found = Notebook(Path(file), "key").get("int8: conv", measure)
    return found, Budget(1.0, 1.0).holds(found), found.noise / 2


def _counts(folder: str, data: str) -> object:
    from dabnet.data.camvid import CamVid
    from dabnet.data.statistics import CountsCache
    from dabnet.training.losses import rarity_weights

    found = CountsCache(Path(folder)).load(CamVid(Path(data), "train"))
    if found is None:
        raise _anew()
    return found.mean_rgb, rarity_weights(found.class_share).tolist()


def _peaks(file: str) -> object:
    from bench.machine.peaks import _kept

    found = _kept(Path(file))
    if not found:
        raise _anew()
    return [1 / peaks.bytes_per_s for peaks in found.values()]


def _ranges(file: str) -> object:
    from export.engine.caches import CalibrationCache

    return CalibrationCache(Path(file), "g" * 64).read()


READERS: dict[str, Callable[..., object]] = {
    "budget": _budget,
    "counts": _counts,
    "peaks": _peaks,
    "ranges": _ranges,
}
