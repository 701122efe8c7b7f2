"""Files of classes: what is read, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from dabnet.data.camvid import CAMVID
from dabnet.data.labels import LabelSet, read_class_file, read_labels, voc_palette
from dabnet.errors import InputError


def test_a_file_of_camvid(tmp_path: Path) -> None:
    lines = [
        f"{r} {g} {b}\t{n}" for n, (r, g, b) in zip(CAMVID.classes, CAMVID.palette, strict=True)
    ]
    file = tmp_path / "label_colors.txt"
    file.write_text("# R G B name\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    labels = read_labels(file)
    assert (labels.classes, labels.palette) == (CAMVID.classes, CAMVID.palette)
    assert labels.ignore == 255
    file.write_text("0   0 0\t\tnot a road\n  255 255 255   Straße  ", encoding="utf-8")
    assert read_labels(file).classes == ("not a road", "Straße")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0 0 a\n0 256 0 b", "'0 256 0 b' in line 2 of .*expected .*'R G B name', such as '128"),
        ("0 0 0 a\n\n1 1 b", "'1 1 b' in line 3 of"),
        ("0 0 0 a\n1 1 1", "'1 1 1' in line 2"),
        ("0 0 0 a\n1 1 1 a", "in line 2 of .*a name and a colour that no other class has"),
        ("0 0 0 a\n0 0 0 b", "in line 2 of .*a name and a colour that no other class has"),
        ("0 0 0 alone", "names 1 classes; expected 2 to 255: a mask"),
        ("\n".join(f"{i % 16} {i // 16} 0 c{i}" for i in range(256)), "names 256 classes"),
        ("0 0 0 \udcff", "is not UTF-8 text"),
        ("", "is empty"),
    ],
)
def test_what_is_no_such_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "classes.txt"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=message) as caught:
        read_labels(file)
    assert "\n" not in str(caught.value)


def test_names_alone_have_the_colours_of_pascal_voc(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    for content in (
        b"\xef\xbb\xbfground\r\n0 128 0 tree\r\n3d print\r\n",
        "ground\n0 128 0 tree\n3d print".encode("utf-16"),
    ):
        file.write_bytes(content)
        labels = read_labels(file)
        assert labels.classes == ("ground", "tree", "3d print")
        assert labels.palette[:2] == ((0, 0, 0), (0, 128, 0))
        assert len(set(labels.palette)) == 3
    file.write_text("\n".join(f"c{number}" for number in range(255)))
    assert read_labels(file).palette == voc_palette(255)


def test_yaml(tmp_path: Path) -> None:
    file = tmp_path / "classes.yaml"
    for text in (
        "names: [road, tree]\ncolors: [[1, 2, 3], [4, 5, 6]]\nignore: 7",
        "names: {0: road, 1: tree}\ncolours: {1: [4, 5, 6], 0: [1, 2, 3]}\nignore: 7",
        "names:\n- road\n- tree\npalette:\n- [1, 2, 3]\n- [4, 5, 6]\nignore: [7, [9, 9, 9]]",
    ):
        file.write_text(text)
        assert read_labels(file) == LabelSet(("road", "tree"), ((1, 2, 3), (4, 5, 6)), 7)
    assert read_class_file(file).ignored_colours == ((9, 9, 9),)
    file.write_text("names: {3: road, 1: tree}\nignore: 0\nval_share: 0.3\nseed: 4")
    found = read_class_file(file)
    assert (found.labels.classes, found.values, found.ignored) == (("tree", "road"), (1, 3), (0,))
    assert (found.labels.ignore, found.val_share, found.seed) == (255, 0.3, 4)
    assert found.labels.palette == (voc_palette(4)[1], voc_palette(4)[3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[road, tree]", "has no key 'names'"),
        ("names: [road", "is not YAML"),
        ("names: road", "names: 'road' in"),
        ("names: {a: road, b: tree}", "values are 0 to 254"),
        ("names: {0: road, 255: tree}", "values are 0 to 254"),
        ("names: [road, yes]", "the class True of .*a name that no other"),
        ("names: [road, road]", "the class 'road' of"),
        ("names: [road]", "names 1 classes; expected 2 to 255"),
        ("names: [a, b]\ncolors: [[1, 2, 3], [1, 2, 3]]", "colors: .* each another one"),
        ("names: [a, b]\ncolors: [[1, 2, 300], [1, 2, 3]]", "colors: .*one .R, G, B. per class"),
        ("names: [a, b]\ncolors: {2: [1, 2, 3]}", "colors: .*one .R, G, B. per class"),
        ("names: [a, b]\nignore: 1", "ignore: 1 in .* is a class"),
        ("names: [a, b]\nignore: none", "ignore: 'none' in .*a mask value 0 to 255"),
        ("names: [a, b]\nval_share: 20", "val_share: 20 in .*between 0 and 1"),
        ("names: [a, b]\nseed: x", "seed: 'x' in .*whole number"),
    ],
)
def test_what_is_no_such_yaml(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "classes.yml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_labels(tmp_path / "classes.yml")
    assert "\n" not in str(caught.value)
