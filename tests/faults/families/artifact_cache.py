"""The cache of dabnet-bench: an entry that is damaged or was changed is made anew, not measured."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.case import EITHER, FINE, Case, Expected
from tests.faults.damage import cut, weights
from tests.faults.originals import SIZE, Originals
from tests.faults.verdict import Result

FAMILY = "artifact cache"
ROWS = ("--backend", "pytorch-fp32", "--backend", "onnxruntime-fp32", "--threads", "1")
BRIEF = ("--size", SIZE, "--rounds", "2", "--min-time", "0.01", "--max-images", "2")
OPTIONS = (*ROWS, *BRIEF, "--cache-dir", "c", "--output", "o")


def sound(folder: Path, result: Result) -> str:
    """Whether the row of the cached file was measured, and its masks are the checkpoint's."""
    if result.code != 0:
        return ""
    rows = json.loads((folder / "o" / "bench.json").read_bytes())["rows"]
    row = next(row for row in rows if row["name"] == "onnxruntime-fp32")
    if row["reason"]:
        return f"its row failed: {row['reason']}"
    agreement = min(row["accuracy"]["agreement"])
    return "" if agreement > 0.999 else f"a changed file was measured: agreement {agreement}"


def case(name: str, damage: Callable[[Path], object], expected: Expected = FINE) -> Case:
    """``damage`` takes each ONNX file in the cache."""

    def lay(folder: Path, originals: Originals) -> list[object]:
        originals.record  # noqa: B018 (fills the cache)
        shutil.copytree(originals.folder / "bench-cache", folder / "c")
        for entry in [*(folder / "c").glob("*.onnx")]:
            damage(entry)
        return [
            "dabnet-bench",
            originals.weights,
            *ROWS,
            *BRIEF,
            "--cache-dir",
            "c",
            "--output",
            "o",
        ]

    changes = ("o", "o/*", "c/*")
    return Case(FAMILY, name, lay, expected, changes=changes, check=sound, seconds=300)


def instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def cases() -> Iterator[Case]:
    # A bench takes its time: ``tests/bench/backends/test_cache.py`` has the other kinds of damage.
    yield case("weights zeroed", weights(lambda data: bytes(len(data))))
    yield case("cut", lambda path: path.write_bytes(cut(path.read_bytes(), 0.6)))
    # What is no file may stay there: then it is told in one line.
    yield case("a FIFO", instead(os.mkfifo), EITHER)
