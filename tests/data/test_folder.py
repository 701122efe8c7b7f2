"""One's own images and masks: each layout, splits that stay, and one line for what is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dabnet.data.camvid import CAMVID
from dabnet.data.folder import drawn_for_validation
from dabnet.data.labels import LabelSet
from dabnet.data.registry import label_set, open_dataset
from dabnet.errors import InputError

SIZE = (6, 8)
CLASSES = "road\n0 128 0 tree\nsky\n"


def write_pair(root: Path, image: str, mask: str, value: int = 1) -> None:
    for name, pixels in (
        (image, np.full((*SIZE, 3), value, np.uint8)),
        (mask, np.full(SIZE, value, np.uint8)),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / name)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    root = tmp_path / "flat"
    for number in range(30):
        write_pair(root, f"images/{number}.jpg", f"masks/{number}.png", number % 3)
    (root / "images" / "._0.jpg").write_bytes(b"\0\5\x16\7")
    (root / "images" / "Thumbs.db").write_bytes(b"\xd0\xcf")
    (root / "classes.txt").write_text(CLASSES)
    return root


def stems(root: Path, split: str) -> list[str]:
    return [image.stem for image, _ in open_dataset("folder", split, root).pairs]  # type: ignore[attr-defined]


@pytest.mark.parametrize("folders", [("images", "masks"), ("img_dir", "ann_dir")])
def test_folders_of_splits(tmp_path: Path, folders: tuple[str, str]) -> None:
    images, masks = folders
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            name = f"{split}/town/{number}"
            write_pair(tmp_path, f"{images}/{name}.jpg", f"{masks}/{name}.png", number)
    (tmp_path / "classes.yaml").write_text("names: [road, tree, sky]")
    assert [len(open_dataset("folder", s, tmp_path)) for s in ("train", "val", "trainval")] == [
        3,
        2,
        5,
    ]
    item = open_dataset("folder", "trainval", tmp_path)[4]
    assert (item.name, item.label.tolist()) == ("1", np.full(SIZE, 1).tolist())
    with pytest.raises(InputError, match="the test split is not in .*there: train, val, trainval$"):
        open_dataset("folder", "test", tmp_path)
    with pytest.raises(InputError, match="unknown split 'dev'; expected one of train, val"):
        open_dataset("folder", "dev", tmp_path)


def test_a_split_that_is_drawn_stays_when_images_are_added(flat: Path) -> None:
    val, train = stems(flat, "val"), stems(flat, "train")
    assert sorted(train + val) == sorted(stems(flat, "trainval")) == sorted(map(str, range(30)))
    for number in range(30, 200):
        write_pair(flat, f"images/{number}.jpg", f"masks/{number}.png")
    more = set(stems(flat, "val"))
    assert set(val) <= more
    assert not more & set(train)
    assert 25 <= len(more) <= 55  # of 200, a fifth
    (flat / "classes.txt").unlink()
    (flat / "classes.yml").write_text("names: [road, tree, sky]\nval_share: 0.5\nseed: 1")
    assert 80 <= len(stems(flat, "val")) <= 120


def test_the_parts_of_a_drawn_split_are_never_empty() -> None:
    for count in (2, 3, 5):
        for seed in range(20):
            names = [str(number) for number in range(count)]
            assert 0 < len(drawn_for_validation(names, 0.2, seed)) < count
            assert 0 < len(drawn_for_validation(names, 0.999, seed)) < count


def test_lists_name_stems_or_paths(flat: Path) -> None:
    write_pair(flat, "images/sub/a b.jpg", "masks/sub/a b.png")
    (flat / "train.txt").write_text("0\n1.jpg\nimages/2.jpg\nimages/3.jpg masks/4.png\nsub\\a b\n")
    (flat / "val.txt").write_text("/data/mine/images/5.jpg,/data/mine/masks/5.png")
    pairs = open_dataset("folder", "train", flat).pairs  # type: ignore[attr-defined]
    names = [(image.stem, mask.stem) for image, mask in pairs]
    assert names == [("0", "0"), ("1", "1"), ("2", "2"), ("3", "4"), ("a b", "a b")]
    assert stems(flat, "val") == ["5"]
    assert len(stems(flat, "trainval")) == 6
    (flat / "val.txt").write_text("5\n77\n")
    with pytest.raises(InputError, match="'77', named in line 2 of .*val.txt', is missing"):
        stems(flat, "val")


def test_files_without_partner_are_counted_and_the_first_named(flat: Path) -> None:
    for number in (3, 5):
        (flat / "masks" / f"{number}.png").unlink()
    (flat / "images" / "7.jpg").unlink()
    with pytest.raises(InputError, match=r"^2 of 29 images have no mask, the first is '.*/3.jpg'"):
        open_dataset("folder", "train", flat)
    faults: list[InputError] = []
    dataset = open_dataset("folder", "trainval", flat, faults=faults)
    assert len(dataset) == 27
    assert any("1 of 28 masks have no image, the first is" in str(fault) for fault in faults)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no classes", "has no file of classes; expected classes.txt with one name per line"),
        ("two class files", "holds classes.txt and classes.yaml; expected one file of classes"),
        ("no masks", "has no folder of masks; expected one of masks, ann_dir"),
        ("no images", "has no folder of images; expected one of images, img_dir"),
        ("empty", "the train split in .* holds no images"),
        ("twice", "0.jpg' and '0.png' have the same name"),
        ("one image", "holds no images"),
    ],
)
def test_what_is_missing_is_one_line(flat: Path, change: str, message: str) -> None:
    if change == "no classes":
        (flat / "classes.txt").unlink()
    elif change == "two class files":
        (flat / "classes.yaml").write_text("names: [a, b]")
    elif change == "twice":
        shutil.copy(flat / "masks/0.png", flat / "images/0.png")
    elif change.startswith("no "):
        shutil.rmtree(flat / change[3:])
    else:
        for folder in ("images", "masks"):
            for path in (flat / folder).iterdir():
                if change == "empty" or path.stem != "0":
                    path.unlink()
    with pytest.raises(InputError, match=message) as caught:
        open_dataset("folder", "val" if change == "one image" else "train", flat)
    assert "\n" not in str(caught.value)


def test_a_mask_of_another_size(flat: Path) -> None:
    Image.new("L", (8, 7)).save(flat / "masks" / "0.png")
    with pytest.raises(
        InputError, match="masks/0.png' is 7x8; expected the size of its image, 6x8"
    ):
        open_dataset("folder", "trainval", flat)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # upright it is 8 high and 6 wide
    Image.new("RGB", (8, 6)).save(flat / "images" / "0.jpg", exif=exif)
    Image.new("L", (8, 6)).save(flat / "masks" / "0.png")
    with pytest.raises(
        InputError, match="is 6x8; expected .* 8x6, which an EXIF tag turns upright"
    ):
        open_dataset("folder", "trainval", flat)[0]


def test_the_classes_come_from_the_folder_or_from_a_checkpoint(flat: Path) -> None:
    own = open_dataset("folder", "train", flat).labels
    assert own == LabelSet(("road", "tree", "sky"), ((0, 0, 0), (0, 128, 0), own.palette[2]), 255)
    assert len(set(own.palette)) == 3  # sky, whose usual colour is tree's, has another
    assert open_dataset("folder", "train", flat, labels=own).labels == own
    other = LabelSet(("road", "tree"), own.palette[:2], 255)
    with pytest.raises(
        InputError,
        match="of folder are 3: road, tree, sky, and those of .* --classes 2: road, tree",
    ):
        open_dataset("folder", "train", flat, labels=other)
    with pytest.raises(
        InputError, match="classes of toy-street are 11: sky, building, .*bicyclist"
    ):
        open_dataset("toy-street", "train", labels=other)
    (flat / "classes.txt").unlink()
    assert open_dataset("folder", "train", flat, labels=own).labels == own
    assert label_set("toy-street") == CAMVID
    with pytest.raises(
        InputError, match="classes of the data set 'folder' are its own; .*--classes"
    ):
        label_set("folder")


def test_other_classes_are_another_fingerprint(flat: Path) -> None:
    before = open_dataset("folder", "train", flat).fingerprint()
    assert open_dataset("folder", "train", flat).fingerprint() == before
    (flat / "classes.txt").write_text("tree\n0 128 0 road\nsky\n")
    assert open_dataset("folder", "train", flat).fingerprint() != before


def test_values_of_masks_that_begin_at_1(flat: Path) -> None:
    (flat / "classes.txt").unlink()
    (flat / "classes.yaml").write_text("names: {1: road, 2: tree}\nignore: 0")
    dataset = open_dataset("folder", "trainval", flat)
    assert [int(dataset[i].label[0, 0]) for i in range(3)] == [255, 0, 1]
    assert dataset.labels.palette == ((128, 0, 0), (0, 128, 0))
