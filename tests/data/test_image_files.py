"""Images as cameras and other machines write them: read upright as RGB, or one line."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dabnet.data.image_files import UnreadableFile, read_image
from dabnet.data.images import ImageFolder

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
PICTURE = Image.fromarray(RGB)
GREY = np.asarray(PICTURE.convert("L"))
GREY_RGB = np.dstack([GREY] * 3)


@pytest.mark.parametrize(
    ("name", "picture", "expected"),
    [
        ("a.png", PICTURE, RGB),
        ("a.bmp", PICTURE, RGB),
        ("a.ppm", PICTURE, RGB),
        ("l.png", PICTURE.convert("L"), GREY_RGB),
        ("la.png", PICTURE.convert("LA"), GREY_RGB),
        ("rgba.png", PICTURE.convert("RGBA"), RGB),
        ("cmyk.tif", PICTURE.convert("CMYK"), RGB),
        ("one.png", Image.fromarray(GREY > 99), np.dstack([(GREY > 99) * np.uint8(255)] * 3)),
        ("16.png", Image.fromarray(GREY.astype(np.uint16) * 257), GREY_RGB),
        ("16.tif", Image.fromarray(GREY.astype(np.uint16) * 256), GREY_RGB),
        ("32.tif", Image.fromarray(GREY.astype(np.int32) * 257), GREY_RGB),
    ],
)
def test_forms_that_lose_nothing(
    tmp_path: Path, name: str, picture: Image.Image, expected: np.ndarray
) -> None:
    picture.save(tmp_path / name)
    found = read_image(tmp_path / name)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_content_decides_and_the_first_frame_is_read(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "jpeg.png", format="JPEG", quality=98, subsampling=0)
    assert np.abs(read_image(tmp_path / "jpeg.png").astype(int) - RGB).mean() < 8
    other = PICTURE.rotate(180)
    for name in ("pages.tif", "frames.png", "frames.webp"):
        more = {"lossless": True} if name.endswith("webp") else {}
        PICTURE.save(tmp_path / name, save_all=True, append_images=[other], **more)
        np.testing.assert_array_equal(read_image(tmp_path / name), RGB)
    transparent = PICTURE.convert("P")
    transparent.save(tmp_path / "p.png", transparency=bytes([0, 128, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_image(tmp_path / "p.png"), transparent.convert("RGB"))


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_pictures_are_upright_as_their_exif_tag_says(tmp_path: Path, tag: int, suffix: str) -> None:
    # EXIF 2.3, tag 0x0112: what turns the stored picture upright, undone here.
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    # Blocks of four colours, so that a JPEG keeps them apart.
    corners = np.array([[[250, 0, 0], [0, 250, 0]], [[0, 0, 250], [250, 250, 250]]], np.uint8)
    upright = Image.fromarray(corners.repeat(16, 0).repeat(24, 1))
    stored = upright.transpose(turns[tag]) if tag in turns else upright
    exif = Image.Exif()
    exif[0x0112] = tag
    stored.save(tmp_path / f"a{suffix}", exif=exif)
    found = read_image(tmp_path / f"a{suffix}").astype(int)
    assert found.shape == (32, 48, 3)
    assert np.abs(found - np.asarray(upright)).mean() < 12


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as an image"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X        ", "cannot be read as an image"),
        (b"\0\0\0 ftypheic", "cannot be read as an image"),
        (EPS, "cannot be read as an image .* expected a whole PNG, JPEG, BMP"),
        ("truncated", "cannot be read as an image .*truncated"),
        ("float", "has mode F; expected 8 or 16 bits per channel"),
        ("wide", "has mode I; expected 8 or 16 bits per channel"),
    ],
)
def test_what_is_no_image_is_one_line_with_its_name(
    tmp_path: Path, content: bytes | str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # no ghostscript
    path = tmp_path / "a.png"
    if content == "truncated":
        PICTURE.resize((64, 48)).save(path, format="JPEG")
        path.write_bytes(path.read_bytes()[:-300])
    elif isinstance(content, str):
        pixels = np.full((4, 4), 70000, np.float32 if content == "float" else np.int32)
        Image.fromarray(pixels).save(path, format="TIFF")
    else:
        path.write_bytes(content)
    with pytest.raises(UnreadableFile, match=f"a.png' {message}") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_what_other_systems_leave_in_a_folder_is_passed_over(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "a.png")
    PICTURE.save(tmp_path / "B.JPEG", format="JPEG")
    for name in ("._a.png", "Thumbs.db", "desktop.ini", "a.heic"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    assert [path.name for path in ImageFolder(tmp_path).paths] == ["B.JPEG", "a.png"]
