"""Cityscapes' layout, its two label codings, and its scores against the official evaluator."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dabnet.data.cityscapes import CITYSCAPES, CITYSCAPES_ID_TO_TRAIN_ID, Cityscapes
from dabnet.data.label_files import read_label
from dabnet.data.registry import open_dataset
from dabnet.errors import InputError
from dabnet.metrics import category_iou, class_iou, confusion, mean_iou

Uint8 = NDArray[np.uint8]
SIZE = (64, 128)
IDS = len(CITYSCAPES_ID_TO_TRAIN_ID)
CLASSES = len(CITYSCAPES.classes)
TRAIN_ID_OF = np.array(CITYSCAPES_ID_TO_TRAIN_ID, np.uint8)
ID_OF = np.array([CITYSCAPES_ID_TO_TRAIN_ID.index(k) for k in range(CLASSES)], np.uint8)
NAMES = {
    "train": ("aachen_000000_000019", "aachen_000001_000019", "zurich_000000_000019"),
    "val": ("lindau_000000_000019", "munster_000000_000019"),
}
WITH_TRAIN_IDS = "aachen_000001_000019"


def image_of(tree: Path, split: str, name: str) -> Path:
    return tree / "leftImg8bit" / split / name.split("_")[0] / f"{name}_leftImg8bit.png"


def label_of(tree: Path, split: str, name: str, coding: str = "labelIds") -> Path:
    return tree / "gtFine" / split / name.split("_")[0] / f"{name}_gtFine_{coding}.png"


def save(path: Path, pixels: Uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def blocks(seed: int, ids: Uint8) -> Uint8:
    """Patches of 4x8 pixels, uint8 (64, 128), each of one of the given values."""
    drawn = np.random.default_rng(seed).choice(ids, (SIZE[0] // 4, SIZE[1] // 8))
    return drawn.repeat(4, 0).repeat(8, 1)


def picture(seed: int) -> Uint8:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "cityscapes"
    for split, names in NAMES.items():
        for seed, name in reversed(list(enumerate(names))):
            save(image_of(root, split, name), picture(seed))
            save(label_of(root, split, name), blocks(seed, np.arange(IDS, dtype=np.uint8)))
    # What else the download holds, and one image whose train ids differ from its ids.
    save(label_of(root, "train", NAMES["train"][0], "color"), picture(9))
    image_of(root, "train", "aachen_x").with_name("._a_leftImg8bit.png").write_bytes(b"\0\5\26\7")
    (root / "leftImg8bit" / "train" / "readme.txt").write_text("not a city")
    values = np.array([*range(CLASSES), 255], np.uint8)
    save(label_of(root, "train", WITH_TRAIN_IDS, "labelTrainIds"), blocks(7, values))
    return root


def test_images_come_in_the_order_of_their_names(tree: Path) -> None:
    for split, names in (*NAMES.items(), ("trainval", NAMES["train"] + NAMES["val"])):
        dataset = open_dataset("cityscapes", split, tree)
        assert (dataset.name, dataset.split, dataset.labels) == ("cityscapes", split, CITYSCAPES)
        assert [dataset[i].name for i in range(len(dataset))] == list(names)


def test_image_and_label_are_read_back(tree: Path) -> None:
    for index, name in enumerate(NAMES["train"]):
        item = Cityscapes(tree, "train")[index]
        assert item.image.dtype == item.label.dtype == np.uint8
        np.testing.assert_array_equal(item.image, picture(index))
        if name == WITH_TRAIN_IDS:
            truth = blocks(7, np.array([*range(CLASSES), 255], np.uint8))
        else:
            truth = TRAIN_ID_OF[blocks(index, np.arange(IDS, dtype=np.uint8))]
        np.testing.assert_array_equal(item.label, truth)


def test_every_label_id_has_its_train_id_and_no_other_value_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "x_gtFine_labelIds.png"
    for value in range(256):
        save(path, np.array([[0, value, 7]], np.uint8))
        if value < IDS or value == 255:
            train_id = CITYSCAPES_ID_TO_TRAIN_ID[value] if value < IDS else 255
            assert read_label(path, Cityscapes.id_coding).tolist() == [[255, train_id, 0]]
            continue
        with pytest.raises(InputError, match=rf"labelIds.png' holds the label value {value}; .*33"):
            read_label(path, Cityscapes.id_coding)
    assert sorted(set(CITYSCAPES_ID_TO_TRAIN_ID)) == [*range(CLASSES), CITYSCAPES.ignore]


def test_missing_folders_and_splits_are_named(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no --data-dir for cityscapes; expected .*leftImg8bit"):
        open_dataset("cityscapes", "train")
    with pytest.raises(InputError, match="no directory at .*nowhere'; expected the folder of city"):
        Cityscapes(tmp_path / "nowhere", "train")
    with pytest.raises(InputError, match="test split .* no public labels; .* train, val, trainval"):
        Cityscapes(tree, "test")
    with pytest.raises(InputError, match="unknown split 'dev'; expected one of train, val"):
        Cityscapes(tree, "dev")
    (tree / "gtFine" / "val").rename(tree / "gtFine" / "away")
    for split in ("val", "trainval"):
        with pytest.raises(InputError, match="no directory at .*gtFine/val'; .*gtFine_trainval"):
            Cityscapes(tree, split)
    (tree / "leftImg8bit" / "val").rename(tree / "away")
    with pytest.raises(InputError, match="the val split is not in .*leftImg8bit.*there: train$"):
        Cityscapes(tree, "val")
    assert len(Cityscapes(tree, "train")) == 3


def test_photos_may_be_jpegs(tree: Path) -> None:
    for name in NAMES["val"]:
        path = image_of(tree, "val", name)
        Image.open(path).save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    dataset = Cityscapes(tree, "val")
    assert [dataset[i].name for i in range(2)] == list(NAMES["val"])


def test_a_split_without_images_is_named(tree: Path) -> None:
    for name in NAMES["val"]:
        image_of(tree, "val", name).unlink()
    for split in ("val", "trainval"):
        with pytest.raises(InputError, match="leftImg8bit/val' holds no images; expected CITY/"):
            Cityscapes(tree, split)


def test_an_image_without_label_is_named(tree: Path) -> None:
    label_of(tree, "train", WITH_TRAIN_IDS).unlink()  # the other coding is enough
    assert len(Cityscapes(tree, "train")) == 3
    label_of(tree, "train", WITH_TRAIN_IDS, "labelTrainIds").unlink()
    message = f"{WITH_TRAIN_IDS}_leftImg8bit.png' has no label; .*{WITH_TRAIN_IDS}_gtFine_labelIds"
    with pytest.raises(InputError, match=message):
        Cityscapes(tree, "train")


@pytest.mark.parametrize(
    ("name", "coding", "pixels", "message"),
    [
        ("aachen_000000_000019", "labelIds", np.full(SIZE, 34, np.uint8), "value 34; .*0 to 33"),
        (
            WITH_TRAIN_IDS,
            "labelTrainIds",
            np.full(SIZE, 19, np.uint8),
            "value 19; .*18, or 255 .*ids belong in .*labelIds",
        ),
        ("aachen_000000_000019", "labelIds", np.zeros((64, 127), np.uint8), "64x127; .*64x128"),
        (WITH_TRAIN_IDS, "labelTrainIds", np.zeros((32, 128), np.uint8), "is 32x128; .*64x128"),
        (
            WITH_TRAIN_IDS,
            "labelTrainIds",
            picture(1),
            r"has the colour \d+ .* at row \d+, column .*19 classes",
        ),
    ],
)
def test_a_wrong_label_is_named(
    tree: Path, name: str, coding: str, pixels: Uint8, message: str
) -> None:
    save(label_of(tree, "train", name, coding), pixels)
    with pytest.raises(InputError, match=f"{name}_gtFine_{coding}.png' .*{message}"):
        Cityscapes(tree, "train")[NAMES["train"].index(name)]


@pytest.mark.parametrize("which", [image_of, label_of])
def test_a_damaged_file_is_named(tree: Path, which: object) -> None:
    path = which(tree, "val", NAMES["val"][0])  # type: ignore[operator]
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=f"{path.name}' cannot be read as an image"):
        Cityscapes(tree, "val")[0]


def test_categories_are_merged_classes() -> None:
    matrices = np.random.default_rng(3).integers(0, 99, (4, 5, 5))
    matrices[1, 3:] = matrices[1, :, 3:] = 0  # category "c" is absent there
    # Class 2 is in no category: to mistake it still counts against the others.
    categories = (("a", (0, 1)), ("c", (3, 4)))
    ious = category_iou(matrices, categories)
    for matrix, row in zip(matrices, ious, strict=True):
        for (_, members), iou in zip(categories, row, strict=True):
            one = np.isin(np.arange(5), members)
            hit = matrix[np.ix_(one, one)].sum()
            union = matrix.sum() - matrix[np.ix_(~one, ~one)].sum()
            np.testing.assert_equal(iou, hit / union if union else np.nan)
    assert np.isnan(ious).tolist() == [[False, i == 1] for i in range(4)]
    singles = [(str(k), (k,)) for k in range(5)]
    np.testing.assert_array_equal(category_iou(matrices, singles), class_iou(matrices))
    assert category_iou(matrices, ()).shape == (4, 0)


def test_the_label_set_is_that_of_cityscapes_scripts() -> None:
    official = pytest.importorskip("cityscapesscripts.helpers.labels")
    drawn = [label for label in official.labels if label.id >= 0]
    assert [label.id for label in drawn] == list(range(IDS))
    assert tuple(label.trainId for label in drawn) == CITYSCAPES_ID_TO_TRAIN_ID
    scored = sorted((x for x in drawn if not x.ignoreInEval), key=lambda label: label.trainId)
    assert tuple(label.name for label in scored) == CITYSCAPES.classes
    assert tuple(label.color for label in scored) == CITYSCAPES.palette
    categories: dict[str, list[int]] = {}
    for label in scored:
        categories.setdefault(label.category, []).append(label.trainId)
    assert tuple((name, tuple(ks)) for name, ks in categories.items()) == CITYSCAPES.categories


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_the_official_evaluator(tmp_path: Path, seed: int) -> None:
    module = "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling"
    evaluator = pytest.importorskip(module)
    rng = np.random.default_rng(seed)
    sky, train, bus = (CITYSCAPES.classes.index(name) for name in ("sky", "train", "bus"))
    # Sky, a category of its own, and train are absent; bus is only predicted, by mistake.
    truth_ids = np.setdiff1d(np.arange(IDS), ID_OF[[sky, train, bus]]).astype(np.uint8)
    predicted_classes = np.setdiff1d(np.arange(CLASSES), [sky, train]).astype(np.uint8)
    predictions = []
    for number, name in enumerate(NAMES["val"]):
        truth = blocks(10 * seed + number, truth_ids)
        save(image_of(tmp_path, "val", name), picture(number))
        save(label_of(tmp_path, "val", name), truth)
        mask = TRAIN_ID_OF[truth]
        wrong = (rng.random(SIZE) < 0.3) | (mask == CITYSCAPES.ignore)
        mask[wrong] = rng.choice(predicted_classes, int(wrong.sum()))
        predictions.append(mask)
        save(tmp_path / "results" / f"{name}.png", ID_OF[mask])

    dataset = Cityscapes(tmp_path, "val")
    assert any((dataset[i].label == CITYSCAPES.ignore).any() for i in range(len(dataset)))
    matrix = np.sum(
        [confusion(mask, dataset[i].label, CLASSES) for i, mask in enumerate(predictions)], 0
    )
    classes, categories = class_iou(matrix), category_iou(matrix, CITYSCAPES.categories)

    options = copy.copy(evaluator.args)
    options.quiet, options.JSONOutput, options.evalInstLevelScore = True, False, False
    official = evaluator.evaluateImgLists(
        [str(tmp_path / "results" / f"{name}.png") for name in NAMES["val"]],
        [str(label_of(tmp_path, "val", name)) for name in NAMES["val"]],
        options,
    )
    exact = {"rtol": 0, "atol": 1e-12, "equal_nan": True}
    expected = [official["classScores"][name] for name in CITYSCAPES.classes]
    np.testing.assert_allclose(classes, expected, **exact)
    assert np.flatnonzero(np.isnan(classes)).tolist() == [sky, train]
    assert classes[bus] == 0
    np.testing.assert_allclose(mean_iou(matrix), official["averageScoreClasses"], **exact)
    expected = [official["categoryScores"][name] for name, _ in CITYSCAPES.categories]
    np.testing.assert_allclose(categories, expected, **exact)
    assert [CITYSCAPES.categories[i][0] for i in np.flatnonzero(np.isnan(categories))] == ["sky"]
    np.testing.assert_allclose(np.nanmean(categories), official["averageScoreCategories"], **exact)


def test_both_codings_of_one_image_give_one_label(tree: Path) -> None:
    pytest.importorskip("cityscapesscripts")
    from cityscapesscripts.helpers.annotation import Annotation, CsObjectType
    from cityscapesscripts.preparation.json2labelImg import createLabelImage

    drawing = Annotation(CsObjectType.POLY)
    drawing.fromJsonText(
        '{"imgHeight": 64, "imgWidth": 128, "objects": ['
        '{"label": "road", "polygon": [[0, 30], [127, 30], [127, 63], [0, 63]]},'
        '{"label": "cargroup", "polygon": [[9, 20], [60, 20], [60, 50], [9, 50]]},'
        '{"label": "license plate", "polygon": [[20, 40], [30, 40], [30, 45], [20, 45]]},'
        '{"label": "ego vehicle", "polygon": [[0, 58], [127, 58], [127, 63], [0, 63]]}]}'
    )
    path = tree / "drawn.png"
    createLabelImage(drawing, "ids").save(path)
    from_ids = read_label(path, Cityscapes.id_coding)
    createLabelImage(drawing, "trainIds").save(path)
    np.testing.assert_array_equal(from_ids, read_label(path, Cityscapes.coding))
    assert [int(v) for v in np.unique(from_ids)] == [0, 13, 255]
    assert from_ids[42, 25] == CITYSCAPES.classes.index("car")  # under the licence plate
