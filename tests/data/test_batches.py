"""Batches are a function of seed, epoch and place, in one process or in several."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dabnet.data.augmentation import Augmentation
from dabnet.data.batches import AugmentedImages, Batch, BatchOrder, batches
from dabnet.data.dataset import Dataset, LabelledImage
from dabnet.data.memory import OnHost
from dabnet.data.toy_street import ToyStreet
from dabnet.errors import InputError

torch.set_num_threads(1)

CROP = (32, 64)
AUGMENTATION = Augmentation(CROP, (0.75, 1.0, 2.0), (105, 108, 110), 11)


def toy(seed: int = 0) -> AugmentedImages:
    return AugmentedImages(OnHost(ToyStreet("train", (48, 64), 6)), AUGMENTATION, seed)


def made(
    path: str,
    order: BatchOrder,
    workers: int = 0,
    dataset: Dataset | None = None,
    augmentation: Augmentation = AUGMENTATION,
) -> list[Batch]:
    dataset = dataset or OnHost(ToyStreet("train", (48, 64), 6))
    return list(batches(path, dataset, augmentation, order, torch.device("cpu"), workers))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(2, 40), st.integers(1, 8), st.integers(1, 4), st.integers(0, 99), st.data())
def test_order(images: int, batch: int, epochs: int, seed: int, data: st.DataObject) -> None:
    if images < max(2, batch):
        with pytest.raises(InputError, match=f"{images} training image"):
            BatchOrder(images, batch, epochs, seed)
        return
    order = BatchOrder(images, batch, epochs, seed)
    all_batches = list(order)
    per_epoch = images // batch
    assert len(order) == len(all_batches) == order.total == epochs * per_epoch
    for epoch in range(epochs):
        of_epoch = all_batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        keys = [key for batch_keys in of_epoch for key in batch_keys]
        assert {key[0] for key in keys} == {epoch}
        # Part of a permutation: all different, all there but what does not fill a batch.
        assert len({key[1] for key in keys}) == per_epoch * batch > images - batch
        assert {key[1] for key in keys} <= set(range(images))
    start = data.draw(st.integers(0, order.total))
    resumed = BatchOrder(images, batch, epochs, seed, start)
    assert list(resumed) == all_batches[start:]
    assert len(resumed) == order.total - start
    assert list(BatchOrder(images, batch, epochs, seed)) == all_batches


def test_epochs_and_seeds_differ() -> None:
    order = [key[1] for batch in BatchOrder(40, 4, 2, seed=0) for key in batch]
    assert order[:40] != order[40:]
    assert order[:40] != list(range(40))
    assert order != [key[1] for batch in BatchOrder(40, 4, 2, seed=1) for key in batch]


def test_an_item_is_a_function_of_seed_epoch_and_index() -> None:
    images = toy()
    first = {key: images[key] for key in [(0, 0), (0, 1), (1, 0), (7, 5)]}
    for key in reversed(list(first)):  # another object, another order
        again = toy()[key]
        assert torch.equal(again[0], first[key][0])
        assert torch.equal(again[1], first[key][1])
    assert not torch.equal(first[0, 0][0], first[1, 0][0])  # another epoch
    assert not torch.equal(first[0, 0][0], toy(seed=1)[0, 0][0])
    seen = {int(v) for _, label in first.values() for v in label.unique()}
    assert seen <= set(range(12))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_started_in_the_middle_gives_the_tail(workers: int) -> None:
    whole = made("workers", BatchOrder(6, 2, 2, 0))
    tail = made("workers", BatchOrder(6, 2, 2, 0, start=4), workers)
    assert len(whole) == 6
    assert len(tail) == 2
    for (pixels, labels), (again, labels_again) in zip(whole[4:], tail, strict=True):
        assert pixels.shape == (2, *CROP, 3)
        assert labels.shape == (2, *CROP)
        assert pixels.dtype == labels.dtype == torch.uint8
        assert torch.equal(pixels, again)
        assert torch.equal(labels, labels_again)


class TellsItsGroup(ToyStreet):
    """A data set whose images' colour says in which process group they were made."""

    def __getitem__(self, index: int) -> LabelledImage:
        image = np.empty((32, 64, 3), np.uint8)
        image[:] = list(os.getpgid(0).to_bytes(3, "little"))
        return LabelledImage("x", image, np.zeros((32, 64), np.uint8))


def test_a_signal_to_the_group_of_the_training_reaches_no_worker() -> None:
    """Ctrl-C in a terminal does: a worker that ends would break the last step."""
    still = Augmentation(CROP, (1.0,), (0, 0, 0), 255)
    dataset = TellsItsGroup("train", (32, 64), 6)
    told = made("workers", BatchOrder(6, 2, 1, 0), 2, dataset, still)
    colours = [colour for pixels, _ in told for colour in pixels[:, 0, 0].tolist()]
    groups = {int.from_bytes(bytes(colour), "little") for colour in colours}
    assert len(groups) == 2
    assert os.getpgid(0) not in groups


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_each_batch(processes: int) -> None:
    whole = list(BatchOrder(20, 6, 2, 0))
    parts = [list(BatchOrder(20, 6, 2, 0, 1, rank, processes)) for rank in range(processes)]
    for iteration, batch in enumerate(whole[1:]):
        assert [key for part in parts for key in part[iteration]] == batch
    assert BatchOrder(20, 6, 2, 0, 0, 1, processes).batch(3) == whole[3]  # whole, whatever the rank
    with pytest.raises(InputError, match="--batch-size 6, of all .* for 4 .* a multiple of 4"):
        BatchOrder(20, 6, 2, 0, 0, 0, 4)


def test_both_data_paths_give_the_same_batches() -> None:
    by_workers = made("workers", BatchOrder(6, 2, 2, 7, start=1))
    on_device = made("device", BatchOrder(6, 2, 2, 7, start=1))
    assert len(by_workers) == len(on_device) == 5
    for (pixels, labels), (again, labels_again) in zip(by_workers, on_device, strict=True):
        assert torch.equal(labels, labels_again)
        assert (pixels.int() - again.int()).abs().max() <= 2
