"""Files of classes: what is read, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from dabnet.data.camvid import CAMVID
from dabnet.data.labels import read_labels
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
