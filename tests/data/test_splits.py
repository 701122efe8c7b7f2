"""What a network has trained on, and the images of a split."""

from __future__ import annotations

import pytest

from dabnet.data.splits import seen_in, trained_on

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


def test_another_folder_may_hold_other_images() -> None:
    """Each user has a ``folder`` of their own, and may have several."""
    assert trained_on("camvid trainval", "val") == "trained on camvid trainval, which holds val"
    told = trained_on("folder trainval", "val")
    assert told == "trained on folder trainval, which holds val if it is the same folder"
