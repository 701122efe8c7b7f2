"""Augmentation keeps image and label aligned, pads as told, and is the same for a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dabnet.data.augmentation import Augmentation, coarse_label, crop_batch, crop_one, recoloured
from dabnet.data.dataset import LabelledImage, Uint8Array
from dabnet.data.images import resize_label
from dabnet.data.toy_street import ToyStreet

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
    return apply(Augmentation(crop, (scale,), FILL, IGNORE), item, seed)


def apply(
    augmentation: Augmentation, item: LabelledImage, seed: int
) -> tuple[Uint8Array, Uint8Array]:
    placement = augmentation.draw(item.label.shape, np.random.default_rng(seed))
    return crop_one(item, placement, augmentation)


def rectangle_of(crop: tuple[int, int], scale: float) -> list[int]:
    """Height and width of what is shown: as large as the crop and the scaled image allow."""
    return [min(c, round(s * scale)) for c, s in zip(crop, (HEIGHT, WIDTH), strict=True)]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("crop", [(24, 32), (36, 48), (64, 80)])
def test_image_and_label_show_the_same_place(scale: float, crop: tuple[int, int]) -> None:
    across = positions()
    down = LabelledImage("rows", across.image, across.image[..., 1] // STEP)
    for seed in range(12):
        image, column = augmented(across, crop, scale, seed)
        again, row = augmented(down, crop, scale, seed)
        np.testing.assert_array_equal(image, again)
        shown = column != IGNORE
        np.testing.assert_array_equal(shown, row != IGNORE)
        # A label is the nearest source pixel, so at most half a pixel from the image's position
        # (and half a grey level of rounding).
        for channel, label in ((0, column), (1, row)):
            place = image[..., channel][shown] / STEP
            assert np.abs(place - label[shown]).max() <= 0.5 + 0.5 / STEP + 0.05


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("crop", [(24, 32), (36, 48), (64, 80)])
def test_one_rectangle_is_shown_and_the_rest_filled(scale: float, crop: tuple[int, int]) -> None:
    for seed in range(12):
        image, column = augmented(positions(), crop, scale, seed)
        assert (image.shape, column.shape) == ((*crop, 3), crop)
        shown, expected = column != IGNORE, rectangle_of(crop, scale)
        assert [int(shown.any(1).sum()), int(shown.any(0).sum())] == expected
        assert shown.sum() == expected[0] * expected[1]
        assert (image[~shown] == FILL).all()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("crop", [(24, 32), (36, 48), (64, 80)])
def test_crops_are_mirrored_scaled_as_asked_and_never_upside_down(
    scale: float, crop: tuple[int, int]
) -> None:
    mirrored = set()
    for seed in range(12):
        image, column = augmented(positions(), crop, scale, seed)
        expected = rectangle_of(crop, scale)
        inside = image[column != IGNORE].reshape(*expected, 3)[:, :, :2].astype(int)
        direction = np.diff(inside[..., 0], axis=1)
        assert (direction >= 0).all() or (direction <= 0).all()
        assert (np.diff(inside[..., 1], axis=0) >= 0).all()
        mirrored.add(bool(direction.sum() < 0))
        # Source pixels per shown pixel, away from the borders.
        middle = np.abs(inside[expected[0] // 2, 4:-4, 0] / STEP)
        slope = abs(middle[-1] - middle[0]) / (len(middle) - 1)
        assert slope == pytest.approx(1 / (round(WIDTH * scale) / WIDTH), abs=0.02)
    assert mirrored == {True, False}


def test_every_scale_is_drawn_and_every_place_can_be_reached() -> None:
    item = positions()
    augmentation = Augmentation((24, 32), SCALES, FILL, IGNORE)
    slopes, corners = set(), set()
    for seed in range(300):
        image, label = apply(augmentation, item, seed)
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
    image, out = apply(augmentation, item, seed)
    assert image.dtype == out.dtype == np.uint8
    assert set(np.unique(out)) <= {*values.tolist(), IGNORE}
    repeated = apply(augmentation, item, seed)
    np.testing.assert_array_equal(image, repeated[0])
    np.testing.assert_array_equal(out, repeated[1])
    # Datasets are cached in memory: the source must stay as it is.
    np.testing.assert_array_equal(item.image, before[0])
    np.testing.assert_array_equal(item.label, before[1])
    assert set(np.unique(resize_label(label, crop))) <= set(values.tolist())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(20, 90), st.integers(20, 90)),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.sampled_from([SCALES, (0.3, 0.5), (1.1, 3.0), (1.0,)]),
)
def test_a_batch_is_cropped_as_its_images_one_by_one(
    seed: int, size: tuple[int, int], eighths: tuple[int, int], scales: tuple[float, ...]
) -> None:
    rng = np.random.default_rng(seed)
    augmentation = Augmentation((8 * eighths[0], 8 * eighths[1]), scales, FILL, IGNORE)
    images = rng.integers(0, 256, (5, *size, 3), np.uint8)
    labels = rng.integers(0, 12, (5, *size), np.uint8)
    placements = [augmentation.draw(size, rng) for _ in range(5)]
    together = crop_batch(
        torch.from_numpy(images), torch.from_numpy(labels), placements, augmentation
    )
    assert together[0].dtype == together[1].dtype == torch.uint8
    assert together[0].is_contiguous()
    alone = [
        crop_one(LabelledImage("x", image, label), placement, augmentation)
        for image, label, placement in zip(images, labels, placements, strict=True)
    ]
    np.testing.assert_array_equal(together[1].numpy(), np.stack([label for _, label in alone]))
    expected = np.stack([image for image, _ in alone]).astype(int)
    difference = np.abs(together[0].numpy() - expected)
    # Only where rounding is a tie, which Pillow's fixed-point weights may tip the other way: most
    # often in small images, whose scales are small fractions.
    assert difference.max(initial=0) <= 2
    assert (difference > 0).mean() < 0.25
    padding = np.stack([label for _, label in alone]) == IGNORE
    assert (together[0].numpy()[padding] == FILL).all()


def test_a_batch_of_street_scenes_differs_in_few_values() -> None:
    rng = np.random.default_rng(0)
    scenes = [ToyStreet("train", (360, 480), 4)[index] for index in range(4)]
    augmentation = Augmentation((240, 320), SCALES, FILL, IGNORE)
    placements = [augmentation.draw((360, 480), rng) for _ in range(4)]
    images, labels = (
        torch.from_numpy(np.stack([getattr(scene, name) for scene in scenes]))
        for name in ("image", "label")
    )
    cropped, _ = crop_batch(images, labels, placements, augmentation)
    expected = np.stack(
        [crop_one(s, p, augmentation)[0] for s, p in zip(scenes, placements, strict=True)]
    )
    difference = np.abs(cropped.numpy().astype(int) - expected)
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.05


def test_rare_crops_show_each_class_as_often() -> None:
    """A class of one pixel in 400 is in half of the crops that are drawn towards one of two."""
    label = np.zeros((160, 160), np.uint8)
    label[16:24, 136:144] = 1
    label[:8] = IGNORE
    shown = {share: 0 for share in (0.0, 1.0)}
    for share in shown:
        augmentation = Augmentation((16, 24), (0.5, 1.0), FILL, IGNORE, share)
        for seed in range(300):
            rng = np.random.default_rng(seed)
            placement = augmentation.draw(label.shape, rng, coarse_label(label))
            item = LabelledImage("scene", np.zeros((160, 160, 3), np.uint8), label)
            shown[share] += 1 in crop_one(item, placement, augmentation)[1]
    assert shown[0.0] < 30
    assert 130 < shown[1.0] < 190
    nothing = np.full((160, 160), IGNORE, np.uint8)
    augmentation.draw(nothing.shape, np.random.default_rng(0), coarse_label(nothing))


@pytest.mark.parametrize(
    ("part", "drawn", "expected"),
    [
        (0, 0.5, [[150, 75, 30], [255, 255, 255]]),  # brightness 1.5
        (0, -0.5, [[50, 25, 10], [100, 100, 100]]),  # and 0.5
        (1, -0.5, [[114, 89, 74], [164, 164, 164]]),  # half the distance to the mean, 128.33
        (2, -0.5, [[78, 53, 38], [200, 200, 200]]),  # half that to the grey of the pixel
        (3, 0.5, [[54, 17, 4], [171, 171, 171]]),  # 255 * (v / 255) ** exp(0.5)
    ],
)
def test_colours_worked_out_by_hand(part: int, drawn: float, expected: list[list[int]]) -> None:
    numbers = torch.zeros(4, 2)
    numbers[part, 0] = drawn
    pixels = torch.tensor([[[100, 50, 20], [200, 200, 200]]] * 2, dtype=torch.uint8)[:, None]
    changed, kept = recoloured(pixels, numbers).tolist()
    assert changed == [expected]
    assert kept == pixels[1].tolist()
