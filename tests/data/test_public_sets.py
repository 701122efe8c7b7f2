"""Pascal VOC 2012 and ADE20K as they are handed out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dabnet.data.registry import open_dataset
from dabnet.data.voc import VOC
from dabnet.errors import InputError


def write_voc(root: Path) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (5, 4)).save(root / f"JPEGImages/2007_{number}.jpg")
        if number < 3:
            mask = Image.new("P", (5, 4), number + 1)
            mask.putpalette([channel for colour in VOC.palette for channel in colour])
            mask.putpixel((0, 0), 255)
            mask.save(root / f"SegmentationClass/2007_{number}.png")
    for split, ids in {"train": "01", "val": "2"}.items():
        lines = "".join(f"2007_{number}\n" for number in ids)
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(lines)


@pytest.mark.parametrize("above", [0, 1, 2])
def test_voc_is_found_in_the_folder_or_above_it(tmp_path: Path, above: int) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    write_voc(root)
    directory = [root, *root.parents][above]
    for split, count in (("train", 2), ("val", 1), ("trainval", 3)):
        assert len(open_dataset("voc", split, directory)) == count
    label = open_dataset("voc", "val", directory)[0].label
    assert (label[0, 0], label[1, 1], VOC.classes[3]) == (255, 3, "bird")
    with pytest.raises(InputError, match="trainaug split is not in .*there: train, val, trainval$"):
        open_dataset("voc", "trainaug", directory)


@pytest.mark.parametrize(
    ("masks", "file", "line"),
    [
        ("SegmentationClassAug", "ImageSets/Segmentation/trainaug.txt", "2007_{}"),
        ("SegmentationAug", "SegmentationAug/train_aug.txt", "2007_{}"),
        (
            "SegmentationClassAug",
            "ImageSets/SegmentationAug/train_aug.txt",
            "/JPEGImages/2007_{0}.jpg /SegmentationClassAug/2007_{0}.png",
        ),
    ],
)
def test_the_augmented_labels_of_voc(tmp_path: Path, masks: str, file: str, line: str) -> None:
    write_voc(tmp_path)
    (tmp_path / masks).mkdir()
    for number in (0, 3):
        Image.new("L", (5, 4), 20).save(tmp_path / masks / f"2007_{number}.png")
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("".join(line.format(number) + "\n" for number in (0, 3)))
    dataset = open_dataset("voc", "trainaug", tmp_path)
    assert [dataset[i].name for i in range(2)] == ["2007_0", "2007_3"]
    assert (dataset[0].label == 20).all()
    assert (open_dataset("voc", "train", tmp_path)[0].label[1:] == 1).all()


def test_an_id_of_voc_without_a_mask_is_named(tmp_path: Path) -> None:
    write_voc(tmp_path)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("2007_2\n2007_3\n")
    with pytest.raises(InputError, match="'2007_3', named in line 2 of .*val.txt', is missing"):
        open_dataset("voc", "val", tmp_path)
    with pytest.raises(InputError, match="train split is not in .*VOC.*; splits .* none"):
        open_dataset("voc", "train", (tmp_path / "VOC").mkdir() or tmp_path / "VOC")


@pytest.mark.parametrize("above", [0, 1])
def test_ade20k_has_sizes_that_differ_and_0_is_ignored(tmp_path: Path, above: int) -> None:
    root = tmp_path / "ADEChallengeData2016"
    for folder, part, count in (("training", "train", 3), ("validation", "val", 1)):
        for kind in ("images", "annotations"):
            (root / kind / folder).mkdir(parents=True)
        for number in range(count):
            name = f"{folder}/ADE_{part}_{number:08}"
            values = np.full((4 + number, 6), number * 75, np.uint8)
            Image.fromarray(values).convert("RGB").save(root / f"images/{name}.jpg")
            Image.fromarray(values).save(root / f"annotations/{name}.png")
    directory = [root, tmp_path][above]
    dataset = open_dataset("ade20k", "trainval", directory)
    assert [dataset[i].label.shape for i in range(4)] == [(4, 6), (5, 6), (6, 6), (4, 6)]
    assert [int(dataset[i].label[0, 0]) for i in range(3)] == [255, 74, 149]
    (root / "annotations/training/ADE_train_00000001.png").unlink()
    with pytest.raises(InputError, match="ADE_train_00000001.jpg' has no label; expected"):
        open_dataset("ade20k", "train", directory)
    with pytest.raises(
        InputError, match="unknown split 'test'; expected one of train, val, trainval"
    ):
        open_dataset("ade20k", "test", directory)
