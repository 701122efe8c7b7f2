"""What a network has trained on, and the images of a split."""

from __future__ import annotations

import pytest

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


def test_a_fold_of_trainval_has_not_seen_a_val_split_of_the_drive_held_out() -> None:
    names = ["camvid trainval without 0016E5"]
    assert seen_in(names, "camvid", "val", ["0016E5"] * 3) == ""
    assert seen_in(names, "camvid", "val", ["0016E5", "0006R0"]) == names[0]


def test_two_folders_of_own_pictures_share_their_name() -> None:
    assert seen_in(["folder trainval"], "folder", "val") == ""
