"""List files as other tools, spreadsheets and machines write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dabnet.data.lists import Pair, read_pairs
from dabnet.errors import InputError

PLAIN = "train/a 1.png annot/a.png\ntrain/b.png annot/b.png\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "cam vid"
    for name in ("train/a 1.png", "train/b.png", "annot/a.png", "annot/b.png", "train/it's.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def read(tree: Path, content: bytes | str) -> list[Pair]:
    def fault(error: InputError) -> None:
        raise error

    file = tree / "list.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_pairs(file, tree, fault)


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n"),
        b"\xef\xbb\xbf" + PLAIN.encode(),
        PLAIN.encode("utf-16"),
        b"\xfe\xff" + PLAIN.encode("utf-16-be"),
        PLAIN.replace("/", "\\"),
        PLAIN.replace("png annot", "png,annot"),
        PLAIN.replace("png annot", "png\tannot"),
        PLAIN.replace("png annot", "png ; annot"),
        '"train/a 1.png" "annot/a.png"\n"train/b.png", annot/b.png\n',
        PLAIN.replace("train/", "/SegNet/Cam Vid/train/").replace("annot/", "/SegNet/annot/"),
        PLAIN.replace("train/", "C:\\My Data\\train\\").replace("annot/", "C:\\My Data\\annot\\"),
        PLAIN.replace("train/", "./train/").replace("annot/", "camvid/annot/"),
        "\n" + PLAIN.replace("\n", "  \n\n"),
    ],
)
def test_the_same_pairs_in_every_form(tree: Path, content: bytes | str) -> None:
    expected = [(tree / "train/a 1.png", tree / "annot/a.png")]
    expected += [(tree / "train/b.png", tree / "annot/b.png")]
    assert read(tree, content) == expected
    absolute = PLAIN.replace("train/", f"{tree}/train/").replace("annot/", f"{tree}/annot/")
    assert read(tree, absolute) == expected


def test_an_apostrophe_is_no_quote(tree: Path) -> None:
    assert read(tree, "train/it's.png annot/a.png") == [
        (tree / "train/it's.png", tree / "annot/a.png")
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train/b.png", "line 1 of .*list.txt' is 'train/b.png'; expected 'image label', two pa"),
        ("\n\na b c", "line 3 of .* is 'a b c'; expected 'image label'"),
        ("train/b.png annot/c.png", "annot/c.png', named in line 1 of list.txt, is missing"),
        ("train/b.png train/b.png", "line 1 of .* is 'train/b.png train/b.png'"),
        ("x" * 5000 + " y", "x', named in line 1 of list.txt, is missing"),
        (b"caf\xe9.png annot/a.png", "is not UTF-8 text"),
    ],
)
def test_other_lines_are_named(tree: Path, content: bytes | str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tree, content)
