"""One view of images: their size, order, hashes and labels, and those that cannot be read."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from dabnet.data.dataset import LabelledImage
from dabnet.data.image_files import image_sha256
from dabnet.data.images import (
    SizedImages,
    Unreadable,
    calibration_source,
    images_or_scenes,
    resize_image,
    resize_label,
)
from dabnet.data.toy_street import ToyStreet
from dabnet.errors import InputError

HEIGHT, WIDTH, STEP = 36, 48, 4


def test_resize_keeps_alignment_and_is_free_at_the_same_size() -> None:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)
    image = np.stack([STEP * columns, STEP * rows, np.zeros_like(rows)], -1)
    assert resize_image(image, (HEIGHT, WIDTH)) is image
    assert resize_label(columns, (HEIGHT, WIDTH)) is columns
    for size in ((72, 96), (18, 24), (36, 96)):
        smaller, label = resize_image(image, size), resize_label(columns, size)
        assert smaller.shape == (*size, 3)
        assert label.shape == size
        # At the border the antialiasing filter is cut off, and the position with it.
        away = np.abs(smaller[..., 0] / STEP - label)[:, 1:-1]
        assert away.max() <= 0.5 + 0.5 / STEP + 0.05
    white = np.full((20, 30, 3), 255, np.uint8)
    np.testing.assert_array_equal(resize_image(white, (7, 9)), np.full((7, 9, 3), 255, np.uint8))


def test_a_view_shows_the_chosen_images_at_its_size_with_the_hash_of_the_native_pixels() -> None:
    scenes = ToyStreet("val", (64, 96), 7)
    images = SizedImages.spread(scenes, (32, 48), 3)
    assert list(images.indices) == [0, 3, 6]
    assert images.description == "3 images of toy-street val"
    found = list(images)
    assert [item.name for item in found] == [scenes[i].name for i in (0, 3, 6)]
    native = scenes[3]
    assert found[1].sha256 == images[1].sha256 == image_sha256(native.image)
    np.testing.assert_array_equal(found[1].image, resize_image(native.image, (32, 48)))
    np.testing.assert_array_equal(found[1].label, resize_label(native.label, (32, 48)))
    np.testing.assert_array_equal(found[1].native_label, native.label)


def test_the_first_images_and_another_size_of_a_view() -> None:
    images = SizedImages.first(ToyStreet("val", (64, 96), 7), (32, 48), 2)
    assert (len(images), len(SizedImages.first(images.dataset, (32, 48)))) == (2, 7)
    larger = replace(images, size=(64, 96))
    assert [item.image.shape for item in larger] == [(64, 96, 3)] * 2
    assert [item.sha256 for item in larger] == [item.sha256 for item in images]


def test_another_process_opens_a_view_itself() -> None:
    images = SizedImages.first(ToyStreet("val", (64, 96), 3), (32, 48))
    again = pickle.loads(pickle.dumps(images))
    assert [item.sha256 for item in again] == [item.sha256 for item in images]


class Damaged(ToyStreet):
    def __getitem__(self, index: int) -> LabelledImage:
        if index in (1, 4):
            raise InputError(f"image {index} is damaged")
        return super().__getitem__(index)


@pytest.mark.parametrize("limit", [2, 3])
def test_unreadable_images_are_passed_over_up_to_a_limit(limit: int) -> None:
    images = SizedImages.first(Damaged("val", (32, 32), 6), (32, 32))
    passed = Unreadable(limit)
    found = [item.name for item in replace(images, unreadable=passed)]
    assert found == [f"toy_val_{index:05d}" for index in (0, 2, 3, 5)]
    assert passed.reasons == ["image 1 is damaged", "image 4 is damaged"]


def test_too_many_unreadable_images_end_it() -> None:
    images = SizedImages.first(Damaged("val", (32, 32), 6), (32, 32))
    with pytest.raises(InputError, match="^image 1 is damaged$"):
        list(images)
    with pytest.raises(InputError, match="more than 1 images cannot be read, .* image 4 is dam"):
        list(replace(images, unreadable=Unreadable(1)))
    with pytest.raises(InputError, match="image 4 is damaged"):
        images[4]


def test_where_the_folder_is_unknown_scenes_are_drawn_but_not_for_calibration() -> None:
    assert images_or_scenes("camvid", "val", None, 2, (32, 48)).origin == ("toy-street", "val")
    assert calibration_source("toy-street", None, 2, (32, 48)).origin == ("toy-street", "train")
    with pytest.raises(InputError, match="INT8 needs images of camvid .*add --data-dir"):
        calibration_source("camvid", None, 2, (32, 48))
