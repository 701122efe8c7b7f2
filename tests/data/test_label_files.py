"""Masks in every form that tools write have the same labels; what cannot be told is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dabnet.data.ade20k import ADE20K, Ade20k
from dabnet.data.camvid import CAMVID, CamVid
from dabnet.data.cityscapes import CITYSCAPES, Cityscapes
from dabnet.data.image_files import UnreadableFile
from dabnet.data.label_files import ForeignLabel, LabelCoding, read_label
from dabnet.data.labels import LabelSet, read_class_file, voc_palette
from dabnet.data.voc import VOC, PascalVoc

Uint8 = NDArray[np.uint8]
CODINGS = {
    "camvid": CamVid.coding,
    "cityscapes": Cityscapes.coding,
    "cityscapes ids": Cityscapes.id_coding,
    "voc": PascalVoc.coding,
    "ade20k": Ade20k.coding,
}


def saved(path: Path, pixels: NDArray[np.generic] | Image.Image) -> Path:
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(path)
    return path


def palette_picture(indices: Uint8, colours: tuple[tuple[int, int, int], ...]) -> Image.Image:
    picture = Image.fromarray(indices).convert("P")
    picture.putdata(indices.reshape(-1).tolist())
    picture.putpalette([channel for colour in colours for channel in colour])
    return picture


@pytest.mark.parametrize("coding", CODINGS.values(), ids=CODINGS)
def test_every_form_of_a_mask_has_the_same_labels(tmp_path: Path, coding: LabelCoding) -> None:
    stored = np.array([*coding.values, *coding.values], np.uint8)[None]
    truth = [[coding.values[int(value)] for value in stored[0]]]
    alpha = np.full_like(stored, 7)
    forms = {
        "grey": stored,
        "palette": palette_picture(stored, ((1, 2, 3),) * 256),
        "rgb": np.dstack([stored] * 3),
        "rgba": np.dstack([stored, stored, stored, alpha]),
        "grey and alpha": np.dstack([stored, alpha]),
        "16 bits": stored.astype(np.uint16),
    }
    for name, form in forms.items():
        found = read_label(saved(tmp_path / f"{name}.png", form), coding)
        assert (name, found.dtype, found.tolist()) == (name, np.uint8, truth)
    one = read_label(saved(tmp_path / "bit.png", np.array([[False, True]])), coding)
    assert one.tolist() == [[coding.values[0], coding.values[1]]]


@pytest.mark.parametrize(
    ("coding", "ignored"),
    [
        (CamVid.coding, (0, 0, 0)),
        (Cityscapes.coding, (111, 74, 0)),
        (Cityscapes.id_coding, (0, 0, 0)),
        (PascalVoc.coding, (224, 224, 192)),
        (Ade20k.coding, (0, 0, 0)),
    ],
)
def test_colours_are_the_classes(
    tmp_path: Path, coding: LabelCoding, ignored: tuple[int, int, int]
) -> None:
    labels = coding.labels
    colours = np.array([[*labels.palette, ignored]], np.uint8)
    truth = [[*range(len(labels.classes)), labels.ignore]]
    assert read_label(saved(tmp_path / "a.png", colours), coding).tolist() == truth
    colours[0, 2] = 3, 4, 5
    with pytest.raises(ForeignLabel, match=r"a.png' has the colour 3 4 5 at row 0, column 2; exp"):
        read_label(saved(tmp_path / "a.png", colours), coding)


def test_255_is_ignored_everywhere_and_other_values_are_named(tmp_path: Path) -> None:
    for coding in CODINGS.values():
        path = saved(tmp_path / "a.png", np.array([[255, 0]], np.uint8))
        assert read_label(path, coding)[0, 0] == coding.labels.ignore
        for wide in (False, True):
            value = 254 if not wide else 1000
            saved(path, np.array([[1, value]], np.uint16 if wide else np.uint8))
            with pytest.raises(ForeignLabel, match=f"a.png' holds the label value {value}; expec"):
                read_label(path, coding)


def test_grey_colours_of_two_classes_make_a_mask_of_0_and_255_readable(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("0 0 0 ground\n255 255 255 lane")
    coding = LabelCoding.of_file(read_class_file(tmp_path / "classes.txt"))
    grey = np.array([[0, 255, 255]], np.uint8)
    for form in (grey, np.dstack([grey] * 3), grey > 0):
        assert read_label(saved(tmp_path / "a.png", form), coding).tolist() == [[0, 1, 1]]
    with pytest.raises(ForeignLabel, match="value 1; expected the grey values .* lists, 0, 255"):
        read_label(saved(tmp_path / "a.png", grey // 255), coding)


def test_the_classes_of_one_file_may_be_grey_and_coloured(tmp_path: Path) -> None:
    coding = LabelCoding.of(LabelSet(("bg", "lane", "car"), ((0,) * 3, (255,) * 3, (9, 0, 0)), 255))
    grey = np.array([[0, 255]], np.uint8)  # a picture without a car
    assert read_label(saved(tmp_path / "a.png", np.dstack([grey] * 3)), coding).tolist() == [[0, 1]]
    assert read_label(saved(tmp_path / "a.png", grey), coding).tolist() == [[0, 255]]


def test_a_palette_that_contradicts_the_indices_is_refused(tmp_path: Path) -> None:
    indices = np.array([[0, 1, 2]], np.uint8)
    right = palette_picture(indices, VOC.palette)
    assert read_label(saved(tmp_path / "a.png", right), PascalVoc.coding).tolist() == [[0, 1, 2]]
    # What a tool writes that shrinks a picture of the colours of the classes 5, 7 and 9.
    shrunk = palette_picture(indices, tuple(VOC.palette[k] for k in (5, 7, 9)))
    with pytest.raises(ForeignLabel, match="palette index 0 in the colour .* of another class"):
        read_label(saved(tmp_path / "a.png", shrunk), PascalVoc.coding)


@pytest.mark.parametrize(
    ("name", "picture", "message"),
    [
        ("a.jpg", Image.new("L", (8, 8)), "is a JPEG, which changes labels"),
        ("a.tif", Image.new("F", (8, 8)), "has mode F"),
        ("a.tif", Image.new("CMYK", (8, 8)), "has mode CMYK"),
    ],
)
def test_what_holds_no_labels(
    tmp_path: Path, name: str, picture: Image.Image, message: str
) -> None:
    with pytest.raises(UnreadableFile, match=f"{name}' {message}"):
        read_label(saved(tmp_path / name, picture), CamVid.coding)


def test_what_pillow_would_scale_is_refused(tmp_path: Path) -> None:
    # RGB of 16 bits: Pillow keeps the upper 8, so that 0…255 would all be 0.
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">HHH", 3, 3, 3))
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 5\n\x01\x05")  # 1 and 5 of 0…5 are 51 and 255
    for name in ("a.png", "a.pgm"):
        with pytest.raises(UnreadableFile, match=f"{name}' has 16 bits per channel or another ran"):
            read_label(tmp_path / name, CamVid.coding)


def test_the_colour_map_of_pascal_voc() -> None:
    # http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html, appendix
    colours = voc_palette(256)
    assert colours[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert (colours[15], colours[20], colours[255]) == (
        (192, 128, 128),
        (0, 64, 128),
        (224, 224, 192),
    )
    assert len(set(colours)) == 256


def test_the_classes_are_those_of_the_benchmarks() -> None:
    assert (len(VOC.classes), VOC.classes[15]) == (21, "person")
    assert (len(set(ADE20K.classes)), len(set(ADE20K.palette))) == (150, 150)
    # objectInfo150.txt, by line number from 1
    known = {1: "wall", 21: "car", 76: "swivel chair", 100: "buffet", 131: "screen", 150: "flag"}
    assert {line: ADE20K.classes[line - 1] for line in known} == known
    assert (CAMVID.ignore, CITYSCAPES.ignore) == (11, 255)
