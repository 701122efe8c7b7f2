"""Calibration files: what is written is read, two add up, and anything else is one clear line."""

from __future__ import annotations

import functools
import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from calibration.calibration_file import (
    Calibration,
    load_calibration,
    save_calibration,
)
from dabnet.errors import ArtifactError, InputError
from tests.support.calibration_net import TRAIN, calibrate, named, seen, small_net, subject


def part(start: int, stop: int) -> Calibration:
    model = small_net()
    chosen = named(8)[start:stop]
    return calibrate(model, chosen, subject(model), **TRAIN)


def test_round_trip(tmp_path: Path) -> None:
    written = seen(3)
    save_calibration(written, tmp_path / "c.json")
    read = load_calibration(tmp_path / "c.json")
    assert read == written
    save_calibration(read, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "c.json").read_bytes()
    lines = (tmp_path / "c.json").read_text(encoding="utf-8").splitlines()
    for name in ("image_001", "y"):  # one line each, for people and diff
        assert sum(line.lstrip().startswith(f'"{name}": ') for line in lines) == 1
    assert (
        json.loads("\n".join(lines))["tensors"]["y"]["maximum"] == written.histograms["y"].maximum
    )


@pytest.mark.parametrize("cuts", [(0, 8), (0, 3, 8), (0, 1, 2, 5, 8)])
def test_runs_over_parts_add_up_to_one_over_all(cuts: tuple[int, ...]) -> None:
    parts = [part(a, b) for a, b in itertools.pairwise(cuts)]
    assert functools.reduce(Calibration.merged, parts) == part(0, 8)
    backwards = functools.reduce(Calibration.merged, parts[::-1])
    assert backwards.histograms == part(0, 8).histograms
    for method in ("minmax", "percentile", "entropy", "mse"):
        assert backwards.ranges(method) == part(0, 8).ranges(method)


def test_what_does_not_add_up() -> None:
    first, second = part(0, 3), part(3, 6)
    other = replace(second.subject, checkpoint_sha256="d" * 64)
    graph = replace(second.subject, graph_sha256="e" * 64, size=(24, 32))
    fewer = {name: h for name, h in second.histograms.items() if name != "x"}
    cases = {
        "1 images are in both calibrations, such as 'image_002'": part(2, 6),
        "of another network (checkpoint cccccccccccc); expected one of the other calibr": replace(
            second, subject=other
        ),
        "of another graph (portable, 12x16": replace(second, subject=graph),
        "calibrations on toy train and city train": replace(second, dataset="city"),
        "calibrations of different tensors": replace(second, histograms=fewer),
    }
    for message, wrong in cases.items():
        with pytest.raises(InputError) as caught:
            first.merged(wrong)
        assert message in str(caught.value)


def text_of(calibration: Calibration, folder: Path) -> str:
    save_calibration(calibration, folder / "c.json")
    return (folder / "c.json").read_text(encoding="utf-8")


def y_with(**changed: object) -> dict[str, object]:
    return {"tensors": lambda tensors: {**tensors, "y": {**tensors["y"], **changed}}}


# what is wrong: (keys that change, the fault that the error names)
DAMAGE = {
    "another file": ({"kind": "recipe"}, "kind: expected 'dabnet calibration', got \"recipe\""),
    "no size": ({"size": None}, "size: expected a valid array, got null"),
    "one side": ({"size": [12]}, "size[1]: missing"),
    "half a pixel": ({"size": [12, 16.5]}, "size[1]: expected a valid integer"),
    "no images": ({"images": {}}, "images: Dictionary should have at least 1 item"),
    "no tensors": ({"tensors": {}}, "tensors: Dictionary should have at least 1 item"),
    "a list of images": ({"images": ["a"]}, "images: expected an object"),
    "a number as a hash": ({"images": {"a": 3}}, "images.a: expected a valid string, got 3"),
    "a key more": ({"more": 1}, "more: unknown key"),
    "a false maximum": (y_with(maximum=1e9), "tensors.y: limit is"),
    "another count": (y_with(count=3), "tensors.y: count is 3, but the bins add up to"),
    "a text as a count": (y_with(count="3"), "tensors.y.count: expected a valid integer"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_one_line_that_names_it(what: str, tmp_path: Path) -> None:
    changes, fault = DAMAGE[what]
    raw = json.loads(text_of(seen(2), tmp_path))
    for key, value in changes.items():
        raw[key] = value(raw[key]) if callable(value) else value
    (tmp_path / "c.json").write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(ArtifactError) as caught:
        load_calibration(tmp_path / "c.json")
    message = str(caught.value)
    assert fault in message
    assert "c.json' holds no valid calibration" in message
    assert message.endswith("collect it again with: dabnet-export calibration CHECKPOINT")


@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"", "is empty"), (b"[]", "expected an object"), (b"\xff\xfe\x00", "not JSON: 'utf-8'")],
)
def test_other_files_are_refused(content: bytes, fault: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises((ArtifactError, InputError), match=f"c.json'.*{fault}"):
        load_calibration(tmp_path / "c.json")


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    text = text_of(seen(1), tmp_path)
    (tmp_path / "c.json").write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"c.json' holds no valid calibration: not JSON"):
        load_calibration(tmp_path / "c.json")


def test_another_version_says_how_to_remake_it(tmp_path: Path) -> None:
    raw = json.loads(text_of(seen(1), tmp_path))
    (tmp_path / "c.json").write_text(json.dumps({**raw, "version": 9}), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"of version 9; expected version 1; .*collect it ag"):
        load_calibration(tmp_path / "c.json")


def test_a_file_of_before_is_read(tmp_path: Path) -> None:
    """Its keys and its version are as they were when the code wrote them by hand, one a line."""
    raw = json.loads(text_of(seen(2), tmp_path))
    assert list(raw) == [
        *("kind", "version", "tool_version", "checkpoint_sha256", "graph_sha256"),
        *("optimized_for", "size", "dataset", "split", "images", "tensors"),
    ]
    by_hand = ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in raw.items())
    (tmp_path / "c.json").write_text("{\n" + by_hand + "\n}\n", encoding="utf-8")
    assert load_calibration(tmp_path / "c.json") == seen(2)
