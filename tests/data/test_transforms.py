"""Resizing keeps image and label aligned."""

from __future__ import annotations

import numpy as np
from test_augmentation import HEIGHT, STEP, WIDTH, positions

from dabnet.data.transforms import resize, resize_image, resize_label


def test_resize_keeps_alignment_and_is_free_at_the_same_size() -> None:
    item = positions()
    assert resize_image(item.image, (HEIGHT, WIDTH)) is item.image
    assert resize_label(item.label, (HEIGHT, WIDTH)) is item.label
    for size in ((72, 96), (18, 24), (36, 96)):
        smaller = resize(item, size)
        assert smaller.image.shape == (*size, 3)
        assert smaller.label.shape == size
        # At the border the antialiasing filter is cut off, and the position with it.
        away = np.abs(smaller.image[..., 0] / STEP - smaller.label)[:, 1:-1]
        assert away.max() <= 0.5 + 0.5 / STEP + 0.05
    white = np.full((20, 30, 3), 255, np.uint8)
    np.testing.assert_array_equal(resize_image(white, (7, 9)), np.full((7, 9, 3), 255, np.uint8))
