"""Calibration files: what is written is read, two add up, and anything else is one clear line."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_calibrate import named, seen, subject

from calibration.calibrate import calibrate
from calibration.calibration_file import (
    Calibration,
    load_calibration,
    merge_calibrations,
    save_calibration,
)
from dabnet.errors import ArtifactError, InputError
from tests.support.calibration_net import small_net


def part(start: int, stop: int) -> Calibration:
    model = small_net()
    chosen = named(8)[start:stop]
    return calibrate(model, chosen, subject(model), dataset="toy", split="train")


def test_round_trip(tmp_path: Path) -> None:
    written = seen(3)
    save_calibration(written, tmp_path / "c.json")
    read = load_calibration(tmp_path / "c.json")
    assert read == written
    assert read.to_json() == written.to_json()
    lines = (tmp_path / "c.json").read_text(encoding="utf-8").splitlines()
    for name in ("image_001", "y"):  # one line each, for people and diff
        assert sum(line.lstrip().startswith(f'"{name}": ') for line in lines) == 1
    assert (
        json.loads("\n".join(lines))["tensors"]["y"]["maximum"] == written.histograms["y"].maximum
    )


@pytest.mark.parametrize("cuts", [(0, 8), (0, 3, 8), (0, 1, 2, 5, 8)])
def test_runs_over_parts_add_up_to_one_over_all(cuts: tuple[int, ...]) -> None:
    parts = [part(a, b) for a, b in itertools.pairwise(cuts)]
    assert merge_calibrations(parts) == part(0, 8)
    backwards = merge_calibrations(parts[::-1])
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


def damaged() -> list[tuple[str, str]]:
    text = seen(2).to_json()
    whole = json.loads(text)
    counts = {**whole["tensors"], "y": {**whole["tensors"]["y"], "maximum": 1e9}}
    return [
        ("nothing", ""),
        ("half", text[: len(text) // 2]),
        ("a list", "[]"),
        ("another file", json.dumps({"kind": "recipe"})),
        ("no size", json.dumps({k: v for k, v in whole.items() if k != "size"})),
        ("no images", json.dumps({**whole, "images": {}})),
        ("a false maximum", json.dumps({**whole, "tensors": counts})),
    ]


@pytest.mark.parametrize(("what", "text"), damaged(), ids=[name for name, _ in damaged()])
def test_damage(what: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises((ArtifactError, InputError), match=r"c.json'.*(cannot be read|is empty)"):
        load_calibration(path)


def test_another_version(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({**json.loads(seen(1).to_json()), "version": 9}), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"of version 9; expected version 1; collect it again"):
        load_calibration(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArtifactError, match="is no text"):
        load_calibration(path)
