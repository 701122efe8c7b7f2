"""Training batches whose content is a pure function of seed, epoch and place in the epoch.

No state of a random generator has to be saved: a run that continues at iteration i sees the
batches that the uninterrupted run would have seen.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from dabnet.data.dataset import Dataset, LabelledImage
from dabnet.data.labels import LabelSet
from dabnet.data.transforms import Augmentation
from dabnet.errors import InputError

Key = tuple[int, int]
"""(epoch, index in the dataset)"""

CACHE_BYTES = 4 << 30
"""A split up to this size is held in memory: CamVid and toy street are, Cityscapes is not."""


class Cached:
    """A dataset held in memory as uint8; each image is read once."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._items: list[LabelledImage | None] = [None] * len(dataset)

    @property
    def name(self) -> str:
        return self._dataset.name

    @property
    def split(self) -> str:
        return self._dataset.split

    @property
    def labels(self) -> LabelSet:
        return self._dataset.labels

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> LabelledImage:
        item = self._items[index]
        if item is None:
            item = self._items[index] = self._dataset[index]
        return item


def cached_if_small(dataset: Dataset, budget: int = CACHE_BYTES) -> Dataset:
    """Return the dataset held in memory where it fits ``budget`` bytes, by its first image."""
    first = dataset[0]
    fits = len(dataset) * (first.image.nbytes + first.label.nbytes) <= budget
    return Cached(dataset) if fits else dataset


class BatchOrder:
    """Yields the keys of each batch of a run, from iteration ``start`` to the last.

    Each epoch is a fresh permutation; what does not fill a batch is dropped, as published.
    """

    def __init__(
        self, images: int, batch_size: int, epochs: int, seed: int, start: int = 0
    ) -> None:
        if images < batch_size:
            raise InputError(
                f"--batch-size {batch_size} with {images} training images",
                f"at most {images}",
            )
        self.images, self.batch_size, self.seed, self.start = images, batch_size, seed, start
        self.batches_per_epoch = images // batch_size
        self.total = epochs * self.batches_per_epoch

    def __len__(self) -> int:
        return self.total - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        order_epoch, order = -1, np.empty(0, np.int64)
        for iteration in range(self.start, self.total):
            epoch, place = divmod(iteration, self.batches_per_epoch)
            if epoch != order_epoch:
                order = np.random.default_rng([self.seed, epoch]).permutation(self.images)
                order_epoch = epoch
            chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
            yield [(epoch, int(index)) for index in chosen]


class AugmentedImages(TorchDataset[tuple[Tensor, Tensor]]):
    """Images and labels after augmentation, by key."""

    def __init__(self, dataset: Dataset, augmentation: Augmentation, seed: int) -> None:
        self.dataset, self.augmentation, self.seed = dataset, augmentation, seed

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        image, label = self.augmentation(self.dataset[index], rng)
        return torch.from_numpy(image), torch.from_numpy(label)


def training_batches(
    images: AugmentedImages, order: BatchOrder, workers: int, pin: bool
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return batches (uint8 (N, h, w, 3), uint8 (N, h, w)) in the given order.

    Args:
        workers: processes that augment; 0 does it in the training process.
        pin: whether batches go to page-locked memory, for copies to a GPU.
    """
    return DataLoader(
        images,
        batch_sampler=order,
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=False,
        worker_init_fn=_leave_signals_to_the_parent,
    )


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches every process of the terminal: a worker that ends breaks the last step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
