"""Augmentation keeps image and label aligned, pads as told and invents no label value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dabnet.data.dataset import LabelledImage, Uint8Array
from dabnet.data.transforms import Augmentation, resize, resize_image, resize_label

SCALES = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
HEIGHT, WIDTH = 36, 48
STEP = 4  # grey levels a pixel in the position images: 48 pixels fit into a byte
FILL = (201, 202, 203)
IGNORE = 250


def positions() -> LabelledImage:
    """Each pixel says where it is: red 4·column, green 4·row; the label is the column."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)
    image = np.stack([STEP * columns, STEP * rows, np.zeros_like(rows)], -1)
    return LabelledImage("positions", image, columns)


def augmented(
    item: LabelledImage, crop: tuple[int, int], scale: float, seed: int
) -> tuple[Uint8Array, Uint8Array]:
    return Augmentation(crop, (scale,), FILL, IGNORE)(item, np.random.default_rng(seed))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("crop", [(24, 32), (36, 48), (64, 80)])
def test_image_and_label_show_the_same_place(scale: float, crop: tuple[int, int]) -> None:
    across = positions()
    down = LabelledImage("rows", across.image, across.image[..., 1] // STEP)
    mirrored = set()
    for seed in range(12):
        image, column = augmented(across, crop, scale, seed)
        again, row = augmented(down, crop, scale, seed)
        np.testing.assert_array_equal(image, again)
        assert image.shape == (*crop, 3)
        assert column.shape == row.shape == crop
        shown = column != IGNORE
        np.testing.assert_array_equal(shown, row != IGNORE)
        # What is shown is one rectangle, as large as the crop and the scaled image allow.
        expected = [min(c, round(s * scale)) for c, s in zip(crop, (HEIGHT, WIDTH), strict=True)]
        assert [int(shown.any(1).sum()), int(shown.any(0).sum())] == expected
        assert shown.sum() == expected[0] * expected[1]
        assert (image[~shown] == FILL).all()
        # A label is the nearest source pixel, so at most half a pixel from the image's position
        # (and half a grey level of rounding).
        for channel, label in ((0, column), (1, row)):
            place = image[..., channel][shown] / STEP
            assert np.abs(place - label[shown]).max() <= 0.5 + 0.5 / STEP + 0.05
        inside = image[shown].reshape(*expected, 3)[:, :, :2].astype(int)
        direction = np.diff(inside[..., 0], axis=1)
        assert (direction >= 0).all() or (direction <= 0).all()
        assert (np.diff(inside[..., 1], axis=0) >= 0).all()  # never upside down
        mirrored.add(bool(direction.sum() < 0))
        # The scale is the one asked for: source pixels a shown pixel, away from the borders.
        middle = np.abs(inside[expected[0] // 2, 4:-4, 0] / STEP)
        slope = abs(middle[-1] - middle[0]) / (len(middle) - 1)
        assert slope == pytest.approx(1 / (round(WIDTH * scale) / WIDTH), abs=0.02)
    assert mirrored == {True, False}


def test_every_scale_is_drawn_and_every_place_can_be_reached() -> None:
    item = positions()
    augmentation = Augmentation((24, 32), SCALES, FILL, IGNORE)
    slopes, corners = set(), set()
    for seed in range(300):
        image, label = augmentation(item, np.random.default_rng(seed))
        row = image[12, 4:-4, 0].astype(float) / STEP
        slopes.add(min(SCALES, key=lambda s: abs(1 / s - abs(row[-1] - row[0]) / (len(row) - 1))))
        corners.add((int(label.min()) == 0, int(label.max()) == WIDTH - 1))
    assert slopes == set(SCALES)
    assert {(True, False), (False, True), (False, False)} <= corners


def test_at_scale_1_without_room_the_pixels_are_the_source_or_its_mirror() -> None:
    item = positions()
    outcomes = []
    for seed in range(64):
        image, label = augmented(item, (HEIGHT, WIDTH), 1.0, seed)
        flipped = bool(label[0, 0] != 0)
        side = -1 if flipped else 1
        np.testing.assert_array_equal(image, item.image[:, ::side])
        np.testing.assert_array_equal(label, item.label[:, ::side])
        outcomes.append(flipped)
    assert 16 < sum(outcomes) < 48  # about half are mirrored


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(8, 60),
    st.integers(8, 60),
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
)
def test_no_label_value_is_invented(
    seed: int, height: int, width: int, eighths: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.choice(12, size=3, replace=False).astype(np.uint8)
    label = rng.choice(values, size=(height, width))
    item = LabelledImage("x", rng.integers(0, 256, (height, width, 3), np.uint8), label)
    before = item.image.copy(), item.label.copy()
    crop = (8 * eighths[0], 8 * eighths[1])
    augmentation = Augmentation(crop, SCALES, FILL, IGNORE)
    image, out = augmentation(item, np.random.default_rng(seed))
    assert image.dtype == out.dtype == np.uint8
    assert set(np.unique(out)) <= {*values.tolist(), IGNORE}
    repeated = augmentation(item, np.random.default_rng(seed))
    np.testing.assert_array_equal(image, repeated[0])
    np.testing.assert_array_equal(out, repeated[1])
    # Datasets are cached in memory: the source must stay as it is.
    np.testing.assert_array_equal(item.image, before[0])
    np.testing.assert_array_equal(item.label, before[1])
    assert set(np.unique(resize_label(label, crop))) <= set(values.tolist())


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
