"""The hash of an image is that of its pixels, and of nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dabnet.data.image_files import image_sha256, read_image


def test_the_hash_is_of_size_and_pixels() -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert image_sha256(image) == hashlib.sha256(b"2x3\n" + bytes(range(18))).hexdigest()
    assert image_sha256(image.reshape(3, 2, 3)) != image_sha256(image)  # the same bytes
    changed = image.copy()
    changed[1, 2, 0] ^= 1
    assert image_sha256(changed) != image_sha256(image)
    # What matters is the picture, not how it lies in memory.
    stored_by_column = np.asfortranarray(image)
    assert image_sha256(stored_by_column) == image_sha256(image)
    assert image_sha256(image[:, ::-1]) == image_sha256(image[:, ::-1].copy())


def test_a_file_keeps_its_hash_in_another_format(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    for name, options in {"a.png": {"compress_level": 9}, "b.bmp": {}}.items():
        Image.fromarray(pixels).save(tmp_path / name, **options)
        assert image_sha256(read_image(tmp_path / name)) == image_sha256(pixels)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((1, 4, 4, 3), np.uint8)],
    ids=["dtype", "grey", "batch"],
)
def test_what_is_no_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 3\)"):
        image_sha256(image)
