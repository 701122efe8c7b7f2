"""The codec of JSON files, on a small kind of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge

from dabnet.errors import ArtifactError, InputError
from dabnet.records import Codec


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Box:
    width: Annotated[int, Ge(1)]
    lid: Literal["open", "shut"] = "shut"
    parts: tuple[Part, ...] = ()
    by_name: dict[str, Part] = field(default_factory=dict)
    best: Part | None = None
    version: int = 2

    def __post_init__(self) -> None:
        if self.width < len(self.parts):
            raise ValueError(f"{len(self.parts)} parts in a width of {self.width}")


BOX = Codec(
    Box,
    "box",
    "dabnet-pack",
    "pack again with: dabnet-pack",
    version=("version", 2),
    error=ArtifactError,
    one_line_each=("parts", "by_name"),
)
PARTS = tuple(Part(f"{'long ' * 8}{number}", number / 2) for number in range(4))
FULL = Box(4, "open", PARTS, {part.name: part for part in PARTS}, best=PARTS[0])


def fault_of(**changes: Any) -> str:
    raw = {**json.loads(BOX.dump(Box(3))), **changes}
    with pytest.raises(ArtifactError) as caught:
        BOX.parse(json.dumps(raw), "'a.json'")
    message = str(caught.value)
    assert message.endswith("; expected a box that dabnet-pack wrote; pack again with: dabnet-pack")
    return message.removeprefix("'a.json' holds no valid box: ").partition("; expected")[0]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "box.json"
    BOX.write(FULL, path)
    assert BOX.read(path) == BOX.parse(path.read_bytes(), "") == FULL
    assert BOX.parse('{"width": 3, "version": 2}', "") == Box(3)
    assert BOX.parse(BOX.dump(Box(1, best=Part("x", 1))), "").best == Part("x", 1.0)


def test_each_item_of_a_long_list_or_object_is_one_line() -> None:
    lines = BOX.dump(FULL).splitlines()
    assert sum(line.startswith('  {"name": "long') for line in lines) == 4
    assert sum(line.startswith('  "long') and '"share"' in line for line in lines) == 4
    assert BOX.dump(Box(3)).count("\n") == 1  # a short one is one line as a whole


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"width": 0}, "width: expected greater than or equal to 1, got 0"),
        ({"lid": "ajar"}, "lid: expected 'open' or 'shut', got \"ajar\""),
        ({"parts": [{"name": "a"}, {}]}, "parts[1].name: missing"),
        ({"by_name": {"a b": {"name": 1}}}, "by_name.a b.name: expected a valid string, got 1"),
        ({"best": {"name": "a", "size": 3}}, "best.size: unknown key"),
        ({"width": 1, "parts": [{"name": "a"}] * 2}, "at its top: 2 parts in a width of 1"),
        ({"width": "x" * 99}, 'width: expected a valid integer, got "' + "x" * 38 + "…"),
    ],
)
def test_a_fault_names_its_place(changes: dict[str, Any], fault: str) -> None:
    assert fault_of(**changes).startswith(fault)


def test_other_versions_say_how_to_get_this_one() -> None:
    with pytest.raises(ArtifactError, match=r"a box of version 1; expected version 2; pack again"):
        BOX.parse('{"width": 3, "version": 1}', "'a.json'")
    with pytest.raises(ArtifactError, match=r"a box of version 3; .*later one, or pack again"):
        BOX.parse('{"width": 3, "version": 3, "unknown": 1}', "'a.json'")


def test_files_that_are_not_there_or_not_json(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file at .*expected a box that dabnet-pack wrote"):
        BOX.read(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"width": ')
    with pytest.raises(ArtifactError, match="half.json' holds no valid box: not JSON: Expecting"):
        BOX.read(tmp_path / "half.json")
    with pytest.raises(ValueError, match="not JSON compliant"):
        BOX.dump(Box(1, best=Part("x", float("inf"))))


def test_a_dictionary_of_dataclasses() -> None:
    codec = Codec(dict[str, Part], "list", "dabnet-pack", "again")
    assert codec.parse(codec.dump({"a": Part("b")}), "") == {"a": Part("b")}
    with pytest.raises(InputError, match=r"holds no valid list: a.name: missing"):
        codec.parse('{"a": {}}', "'l'")
