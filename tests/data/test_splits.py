"""What a network has trained on, and the images of a split."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from dabnet.data.file_pairs import seen_by
from dabnet.data.images import SizedImages
from dabnet.data.registry import open_dataset
from dabnet.data.splits import seen_in

HELD_OUT = "train without 0006R0"


@pytest.mark.parametrize(
    ("trained_on", "split", "seen"),
    [
        ((), "val", ""),
        (("train",), "val", ""),
        (("train",), "train", "train"),
        (("train", "trainval"), "val", "trainval"),
        (("trainval", "train"), "val", "trainval"),
        (("trainval",), "test", ""),
        (("test",), "test", "test"),
        (("trainaug",), "val", ""),
        ((HELD_OUT,), "0006R0 alone", ""),
        ((HELD_OUT,), "0016E5 alone", HELD_OUT),
        (("train",), "0006R0 alone", "train"),
        (("trainval without 0006R0",), "val", "trainval without 0006R0"),
    ],
)
def test_what_holds_the_images_of_a_split(
    trained_on: tuple[str, ...], split: str, seen: str
) -> None:
    names = [f"camvid {each}" for each in trained_on]
    assert seen_in(names, "camvid", split) == (f"camvid {seen}" if seen else "")
    assert seen_in(names, "cityscapes", split) == ""


@pytest.mark.parametrize(
    ("drives", "held_out", "seen"), [("AAA", "A", False), ("AAB", "A", True), ("AAA", "B", True)]
)
def test_a_fold_of_trainval_has_not_seen_a_val_split_of_the_drive_held_out(
    tmp_path: Path, drives: str, held_out: str, seen: bool
) -> None:
    lines = []
    for number, drive in enumerate(drives):
        names = [f"{drive}_{number}{end}.png" for end in ("", "_label")]
        Image.new("RGB", (8, 8)).save(tmp_path / names[0])
        Image.new("L", (8, 8)).save(tmp_path / names[1])
        lines.append(" ".join(names))
    (tmp_path / "camvid_val_list.txt").write_text("\n".join(lines))
    val = open_dataset("camvid", "val", tmp_path)
    trained_on = [f"camvid trainval without {held_out}"]
    for found in (seen_by(trained_on, val), SizedImages.first(val, (8, 8)).seen_by(trained_on)):
        assert found == (trained_on[0] if seen else "")


def test_two_folders_of_own_pictures_share_their_name() -> None:
    assert seen_in(["folder trainval"], "folder", "val") == ""
