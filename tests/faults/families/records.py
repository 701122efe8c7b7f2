"""Records of dabnet-bench from other people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.faults.case import Case
from tests.faults.damage import no_files, texts
from tests.faults.originals import Originals

FAMILY = "record"


def cases() -> Iterator[Case]:
    for name, make, user in no_files():

        def lay(folder: Path, _: Originals, make=make) -> list[str]:
            make(folder / "bench.json")
            return ["dabnet-bench", "report", "bench.json"]

        yield Case(FAMILY, f"is {name}", lay, user=user)
    for name, content in texts():

        def lay_text(folder: Path, _: Originals, content=content) -> list[str]:
            (folder / "bench.json").write_bytes(content)
            return ["dabnet-bench", "report", "bench.json"]

        yield Case(FAMILY, f"holds {name}", lay_text)
