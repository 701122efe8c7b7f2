"""Toy street: exact, repeatable, the same scene at every size, and with all classes in it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dabnet.data.camvid import CAMVID as TOY_STREET
from dabnet.data.dataset import Dataset
from dabnet.data.toy_street import ToyStreet, draw_drive, draw_scene, write_camvid_tree
from dabnet.errors import InputError
from tests.support.processes import run_python

SMALL = (120, 160)

HASH_IN_FRESH_PROCESS = """
import hashlib, sys
from dabnet.data.toy_street import ToyStreet
item = ToyStreet("val", (120, 160), seed=3)[7]
sys.stdout.write(hashlib.sha256(item.image.tobytes() + item.label.tobytes()).hexdigest())
"""


def frequencies(dataset: Dataset) -> np.ndarray:
    """Return the share (12,) of every label value, ignore last."""
    counts = sum(np.bincount(dataset[i].label.ravel(), minlength=12) for i in range(len(dataset)))
    return np.asarray(counts) / np.sum(counts)


def test_a_fresh_process_draws_the_same_pixels() -> None:
    dataset = ToyStreet("val", SMALL, seed=3)
    for _ in range(2):  # what was drawn before must not matter
        item = dataset[7]
        dataset[0]
    here = hashlib.sha256(item.image.tobytes() + item.label.tobytes()).hexdigest()
    there = run_python(HASH_IN_FRESH_PROCESS)
    assert there.stdout == here


def test_no_scene_is_in_two_splits_nor_twice_in_one() -> None:
    seen: set[bytes] = set()
    for split in ("train", "val", "test"):
        for seed in (0, 1):
            dataset = ToyStreet(split, (48, 64), length=12, seed=seed)
            seen |= {dataset[i].label.tobytes() for i in range(12)}
    assert len(seen) == 3 * 2 * 12


def test_trainval_is_train_then_val() -> None:
    whole = ToyStreet("trainval", (48, 64))
    train, val = ToyStreet("train", (48, 64)), ToyStreet("val", (48, 64))
    assert len(whole) == len(train) + len(val) == 250
    for i, part, j in ((0, train, 0), (199, train, 199), (200, val, 0), (249, val, 49)):
        assert whole[i].name == part[j].name
        assert np.array_equal(whole[i].image, part[j].image)
        assert np.array_equal(whole[i].label, part[j].label)


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (97, 61), (360, 480), (512, 1024)])
def test_shape_dtype_and_range(size: tuple[int, int]) -> None:
    dataset: Dataset = ToyStreet("test", size, length=2)
    assert dataset.name == "toy-street"
    assert dataset.labels is TOY_STREET
    for item in (dataset[i] for i in range(len(dataset))):
        assert item.image.shape == (*size, 3)
        assert item.label.shape == size
        assert item.image.dtype == item.label.dtype == np.uint8
        assert item.image.flags.c_contiguous
        assert set(np.unique(item.label)) <= set(range(12))
        assert item.image.std() > 15, "a flat picture"


@pytest.mark.parametrize("first", [0, 10, 20])
def test_ten_images_hold_every_class_and_one_holds_most(first: int) -> None:
    dataset = ToyStreet("train", SMALL)
    found = [set(np.unique(dataset[i].label).tolist()) for i in range(first, first + 10)]
    assert set.union(*found) == set(range(12))
    assert min(len(classes) for classes in found) >= 8


def test_class_shares_are_those_of_a_street() -> None:
    share = dict(
        zip((*TOY_STREET.classes, "ignore"), frequencies(ToyStreet("val", SMALL)), strict=True)
    )
    large = {"sky", "building", "road"}
    assert {name for name in share if share[name] > 0.12} == large
    for name in ("pole", "sign", "fence", "pedestrian", "bicyclist", "ignore"):
        assert 0.001 < share[name] < 0.05, name
    for name in ("pavement", "tree", "car"):
        assert 0.02 < share[name] < 0.12, name


def test_colour_alone_does_not_tell_the_class() -> None:
    """The best table from colour to class, fitted on train, is far from solving val."""
    votes = np.zeros((16**3, 12), dtype=np.int64)
    train, val = ToyStreet("train", (90, 120), 40), ToyStreet("val", (90, 120), 20)

    def pairs(dataset: ToyStreet) -> tuple[np.ndarray, np.ndarray]:
        items = [dataset[i] for i in range(len(dataset))]
        colour = np.concatenate([i.image.reshape(-1, 3) for i in items]).astype(np.int64) // 16
        return colour @ [256, 16, 1], np.concatenate([i.label.ravel() for i in items])

    np.add.at(votes, pairs(train), 1)
    key, label = pairs(val)
    guess = votes.argmax(axis=1)[key]
    overlap = [
        ((guess == c) & (label == c)).sum() / ((guess == c) | (label == c)).sum() for c in range(11)
    ]
    assert np.mean(overlap) < 0.25
    assert np.mean(guess == label) > 0.35, "colours say nothing: the scenes are noise"


@pytest.mark.parametrize("size", [(128, 160), (180, 240)])
def test_twice_the_size_shows_the_same_scene(size: tuple[int, int]) -> None:
    small = ToyStreet("train", size, length=8)
    large = ToyStreet("train", (2 * size[0], 2 * size[1]), length=8)
    for i in range(8):
        reduced = large[i].label[::2, ::2]
        assert np.mean(reduced == small[i].label) > 0.9
        halved = Image.fromarray(large[i].image).reduce(2)
        difference = np.asarray(halved, dtype=float) - small[i].image
        assert np.abs(difference).mean() < 12
        assert np.mean(large[i].label[::2, ::2] == small[(i + 1) % 8].label) < 0.85


def test_image_and_label_share_their_edges() -> None:
    """Labels are exact: at class borders the colour changes much more than elsewhere."""
    item = ToyStreet("train")[3]
    step = np.abs(np.diff(item.image.astype(float), axis=1)).sum(axis=2)
    border = np.diff(item.label.astype(int), axis=1) != 0
    assert step[border].mean() > 5 * step[~border].mean()
    shifted = np.roll(border, 3, axis=1)
    assert step[border].mean() > 1.7 * step[shifted & ~border].mean()


def test_scenes_obey_the_geometry_of_a_street() -> None:
    """Sky is above, road below; what stands on the road hides no sky at the top."""
    for i in range(12):
        _, label = draw_scene((5, 0, i), SMALL)
        rows = np.arange(SMALL[0])[:, None] * np.ones(SMALL)
        assert rows[label == 0].max() < 0.62 * SMALL[0]
        assert rows[label == 3].min() > 0.36 * SMALL[0]
        assert np.mean(label[-12:] == 3) + np.mean(label[-12:] == 11) > 0.3


def test_camvid_tree_holds_what_the_dataset_gives(tmp_path: Path) -> None:
    root = write_camvid_tree(tmp_path / "new" / "toy", (64, 96), {"train": 3, "val": 2}, seed=4)
    lines = {}
    for split in ("train", "val", "trainval"):
        text = (root / f"camvid_{split}_list.txt").read_text()
        assert text.endswith(".png\n")
        lines[split] = text.splitlines()
    assert lines["trainval"] == lines["train"] + lines["val"]
    for split, count in (("train", 3), ("val", 2)):
        dataset = ToyStreet(split, (64, 96), count, seed=4)
        assert len(lines[split]) == count
        for i, line in enumerate(lines[split]):
            name = dataset[i].name
            assert line == f"{split}/{name}.png {split}annot/{name}.png"
            with Image.open(root / line.split()[0]) as image:
                assert image.mode == "RGB"
                assert np.array_equal(np.asarray(image), dataset[i].image)
            with Image.open(root / line.split()[1]) as label:
                assert label.mode == "L"
                assert np.array_equal(np.asarray(label), dataset[i].label)
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    lists = {f"camvid_{split}_list.txt" for split in lines}
    assert files == {name for line in lines["trainval"] for name in line.split()} | lists


def test_errors_are_one_line_and_name_the_value(tmp_path: Path) -> None:
    for arguments, words in (
        ({"split": "dev"}, "'dev'"),
        ({"split": "train", "size": (31, 480)}, "31×480"),
        ({"split": "train", "size": (-360, 480)}, "-360×480"),
        ({"split": "train", "size": (360,)}, "(360,)"),
        ({"split": "train", "size": (36.5, 48.0)}, "36.5"),
        ({"split": "train", "length": 0}, "0 images"),
        ({"split": "train", "seed": -1}, "seed -1"),
    ):
        with pytest.raises(InputError) as caught:
            ToyStreet(**arguments)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    dataset = ToyStreet("train", (48, 64), length=3)
    for index in (3, -1):
        with pytest.raises(IndexError, match=f"index {index} .* 3 images"):
            dataset[index]
    assert len(list(dataset)) == 3  # iteration ends by the IndexError
    with pytest.raises(InputError, match="'trainval'"):
        write_camvid_tree(tmp_path / "tree", (48, 64), {"trainval": 2})
    assert not (tmp_path / "tree").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        write_camvid_tree(tmp_path / "file", (48, 64), {"train": 1})


def test_a_drive_goes_along_a_street_that_stays_the_same() -> None:
    """Half a metre changes little, and a thing keeps its colour whatever else comes into view."""
    key, size = (7, 12), (60, 120)
    scene = draw_scene(key, size)[0]
    images, labels = zip(
        *(draw_drive(key, size, metres) for metres in (0.0, 0.5, 9.0)), strict=True
    )
    assert (draw_drive(key, size, 9.0)[0] == images[2]).all()
    assert (draw_scene(key, size)[0] == scene).all()
    near, far = (float((labels[0] == label).mean()) for label in labels[1:])
    assert near > 0.85 > far > 0.4
    steps = [np.abs(images[0].astype(int) - image).mean() for image in images[1:]]
    assert steps[0] < 0.5 * steps[1]
