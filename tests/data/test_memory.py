"""Data sets in memory: each image read once, in order, in bounded numbers."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from dabnet.data.camvid import CAMVID as TOY_STREET
from dabnet.data.dataset import LabelledImage
from dabnet.data.memory import OnDevice, OnHost, on_host_if_small, read_ahead
from dabnet.data.toy_street import ToyStreet
from dabnet.errors import InputError


def test_cached_reads_each_image_once() -> None:
    class Counting(ToyStreet):
        reads = 0

        def __getitem__(self, index: int) -> LabelledImage:
            Counting.reads += 1
            return super().__getitem__(index)

    cached = OnHost(Counting("val", (48, 64), 3))
    for _ in range(3):
        for index in range(len(cached)):
            np.testing.assert_array_equal(
                cached[index].image, ToyStreet("val", (48, 64), 3)[index].image
            )
    assert Counting.reads == 3
    assert (cached.name, cached.split, cached.labels) == ("toy-street", "val", TOY_STREET)


class Slow(ToyStreet):
    """Counts what was read and not yet taken."""

    def __init__(self, count: int, bad: int | None = None) -> None:
        super().__init__("val", (32, 32), count)
        self.bad, self.read, self.lock = bad, 0, threading.Lock()

    def __getitem__(self, index: int) -> LabelledImage:
        if index == self.bad:
            raise InputError(f"image {index} is damaged")
        time.sleep(0.001 * (index % 3))  # later images overtake earlier ones
        with self.lock:
            self.read += 1
        return LabelledImage(str(index), np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8))


@pytest.mark.parametrize("cores", [1, 2, 4])
def test_images_come_in_order_and_few_wait(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cores))
    dataset = Slow(40)
    for taken, item in enumerate(read_ahead(dataset.__getitem__, range(39, -1, -1)), start=1):
        assert item.name == str(40 - taken)
        assert dataset.read - taken <= 2 * cores
    assert dataset.read == 40


@pytest.mark.parametrize("cores", [1, 3])
def test_a_bad_image_is_told_and_reading_ends(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cores))
    dataset = Slow(40, bad=5)
    taken = []
    with pytest.raises(InputError, match="image 5 is damaged"):
        for item in read_ahead(dataset.__getitem__, range(40)):
            taken.append(item.name)
    assert taken == ["0", "1", "2", "3", "4"]
    assert dataset.read < 40


def test_a_split_on_a_device_is_taken_by_index() -> None:
    dataset = ToyStreet("val", (48, 64), 5)
    steps: list[int] = []
    held = OnDevice(dataset, torch.device("cpu"), lambda: steps.append(1))
    assert len(steps) == 5
    assert held.size == (48, 64)
    images, labels = held.take([4, 0])
    for place, index in enumerate((4, 0)):
        np.testing.assert_array_equal(images[place].numpy(), dataset[index].image)
        np.testing.assert_array_equal(labels[place].numpy(), dataset[index].label)


def test_images_of_several_sizes_are_refused_by_name() -> None:
    class Mixed(ToyStreet):
        def __getitem__(self, index: int) -> LabelledImage:
            return ToyStreet("val", (48, 64 + 8 * (index == 2)), 5)[index]

    with pytest.raises(InputError, match="toy_val_00002 is 48x72 and the first image 48x64"):
        OnDevice(Mixed("val", (48, 64), 5), torch.device("cpu"))


def test_a_split_over_the_budget_stays_on_disk() -> None:
    dataset = ToyStreet("val", (48, 64), 5)
    needed = 5 * 48 * 64 * 4
    assert isinstance(on_host_if_small(dataset, needed), OnHost)
    assert on_host_if_small(dataset, needed - 1) is dataset


def test_a_held_split_can_be_filled_at_once() -> None:
    dataset = Slow(7)
    held = OnHost(dataset)
    assert held[3].name == "3"
    steps: list[int] = []
    held.fill(lambda: steps.append(1))
    assert (dataset.read, len(steps)) == (7, 6)
    assert [held[index].name for index in range(7)] == [str(index) for index in range(7)]
    assert dataset.read == 7
