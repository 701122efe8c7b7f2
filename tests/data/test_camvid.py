"""CamVid's layout: what is written is read back; what is wrong is named, file and value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dabnet.data.camvid import CamVid
from dabnet.data.label_files import read_label
from dabnet.data.registry import open_dataset
from dabnet.data.toy_street import ToyStreet, write_camvid_tree
from dabnet.errors import InputError

SIZE = (48, 64)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_camvid_tree(tmp_path / "camvid", SIZE, {"train": 3, "val": 2})


def first_label(tree: Path) -> Path:
    return sorted((tree / "valannot").iterdir())[0]


def first_image(tree: Path) -> Path:
    return sorted((tree / "val").iterdir())[0]


def test_the_layout_is_read_back_equal(tree: Path) -> None:
    for split, count in (("train", 3), ("val", 2)):
        stored = open_dataset("camvid", split, tree)
        drawn = ToyStreet(split, SIZE, count)
        assert len(stored) == count
        assert (stored.name, stored.split) == ("camvid", split)
        for index in range(count):
            assert stored[index].name == drawn[index].name
            assert stored[index].image.dtype == stored[index].label.dtype == np.uint8
            np.testing.assert_array_equal(stored[index].image, drawn[index].image)
            np.testing.assert_array_equal(stored[index].label, drawn[index].label)
    both = CamVid(tree, "trainval")
    assert [both[i].name for i in range(5)] == [
        CamVid(tree, split)[i].name for split, n in (("train", 3), ("val", 2)) for i in range(n)
    ]


def test_every_label_value_is_kept_and_colours_are_rgb(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = Image.fromarray(values).convert("P")
    palette.putdata(list(range(12)))  # the indices are the labels, whatever their colours
    Image.fromarray(values).save(tmp_path / "grey.png")
    palette.save(tmp_path / "palette.png")
    for name in ("grey.png", "palette.png"):
        np.testing.assert_array_equal(read_label(tmp_path / name, CamVid.coding), values)
    red = np.zeros((3, 4, 3), np.uint8)
    red[..., 0] = 255
    Image.fromarray(red).save(tmp_path / "red.png")
    (tmp_path / "camvid_val_list.txt").write_text("\nred.png grey.png\n\n", encoding="utf-8")
    np.testing.assert_array_equal(CamVid(tmp_path, "val")[0].image, red)


def test_without_a_list_of_its_own_trainval_is_both(tree: Path) -> None:
    before = CamVid(tree, "trainval").pairs
    (tree / "camvid_trainval_list.txt").unlink()
    assert CamVid(tree, "trainval").pairs == before


def test_a_missing_split_names_those_that_are_there(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the test split is not in .*: train, val, trainval$"):
        CamVid(tree, "test")
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match="splits that are there: none"):
        CamVid(tmp_path / "bare", "train")
    with pytest.raises(InputError, match="unknown split 'dev'; expected one of train, val"):
        CamVid(tree, "dev")
    with pytest.raises(InputError, match="no directory at"):
        CamVid(tmp_path / "nowhere", "train")
    with pytest.raises(InputError, match="no --data-dir for camvid"):
        open_dataset("camvid", "train")


def test_a_listed_file_that_is_missing_is_named_with_its_line(tree: Path) -> None:
    victim = sorted((tree / "valannot").iterdir())[1]
    victim.unlink()
    with pytest.raises(InputError, match=f"{victim.name}', named in line 2 of camvid_val_list.txt"):
        CamVid(tree, "val")


@pytest.mark.parametrize("value", [12, 200, 254])
def test_a_foreign_label_value_is_named_with_its_file(tree: Path, value: int) -> None:
    path = first_label(tree)
    label = np.zeros(SIZE, np.uint8)
    label[-1, -1] = value
    Image.fromarray(label).save(path)
    with pytest.raises(InputError, match=rf"{path.name}' holds the label value {value}; .*0 to 10"):
        CamVid(tree, "val")[0]


def test_a_label_of_another_size_is_refused(tree: Path) -> None:
    Image.new("L", (SIZE[1], SIZE[0] - 1)).save(first_label(tree))
    with pytest.raises(InputError, match="is 47x64; expected the size of its image, 48x64"):
        CamVid(tree, "val")[0]


@pytest.mark.parametrize("which", [first_image, first_label])
@pytest.mark.parametrize("damage", ["cut", "text", "empty", "short header"])
def test_a_corrupt_png_is_named(tree: Path, which: object, damage: str) -> None:
    path = which(tree)  # type: ignore[operator]
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "text": b"not a picture",
            "empty": b"",
            "short header": content[:8] + b"\0\0\0\1IHDR" + content[16:],
        }[damage]
    )
    with pytest.raises(InputError, match=f"{path.name}' cannot be read as an image"):
        CamVid(tree, "val")[0]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=3),
)
def test_a_damaged_label_is_an_input_error_or_valid(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    Image.fromarray(np.arange(96, dtype=np.uint8).reshape(8, 12) % 12).save(path)
    content = bytearray(path.read_bytes())
    for position, value in flips:
        content[position % len(content)] = value
    path.write_bytes(content)
    try:
        label = read_label(path, CamVid.coding)
    except InputError as error:
        assert "damaged.png" in str(error)
    else:
        assert label.max() <= 11


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"val/only_one.png\n", "line 1 of .*'val/only_one.png'; expected 'image label'"),
        (b"\na b c\n", "line 2 of .*'a b c'"),
        (b"\n \n", "val split in .* holds no images"),
        (b"", "is empty"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ],
)
def test_a_malformed_list_is_named_with_its_line(tree: Path, text: bytes, message: str) -> None:
    (tree / "camvid_val_list.txt").write_bytes(text)
    with pytest.raises(InputError, match=message):
        CamVid(tree, "val")
