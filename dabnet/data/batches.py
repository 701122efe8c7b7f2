"""Training batches whose content is a pure function of seed, epoch and place in the epoch.

No state of a random generator has to be saved: a run that continues at iteration i sees the
batches that the uninterrupted run would have seen. They are made on one of two paths: as a whole on
the device that holds the data set, or image by image by workers on the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from dabnet.console import progress_bar
from dabnet.data.augmentation import Augmentation, coarse_label, crop_batch, crop_one
from dabnet.data.dataset import Dataset
from dabnet.data.memory import OnDevice, OnHost, fits_on
from dabnet.errors import InputError
from dabnet.interrupt import end_with_parent

Key = tuple[int, int]
"""(epoch, index in the dataset)"""

Batch = tuple[Tensor, Tensor]
"""uint8 images (N, h, w, 3) and uint8 labels (N, h, w)."""


class BatchOrder:
    """Yields the keys of each batch of a run, from iteration ``start`` to the last of ``total``.

    Each epoch is a new permutation; images that fill no batch are dropped, as published. If several
    ``processes`` train together, each yields its own part of every batch.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        epochs: float,
        seed: int,
        start: int = 0,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        if images < 2:
            raise InputError(f"{images} training image", "at least 2 (batch normalisation)")
        if images < batch_size:
            raise InputError(
                f"--batch-size {batch_size} with {images} training images", f"at most {images}"
            )
        if batch_size % processes:
            raise InputError(
                f"--batch-size {batch_size}, of all processes together, for {processes} of them",
                f"a multiple of {processes}",
            )
        self.images, self.batch_size, self.seed, self.start = images, batch_size, seed, start
        self.batches_per_epoch = images // batch_size
        self.total = max(1, round(epochs * self.batches_per_epoch))
        part = batch_size // processes
        self._mine = slice(rank * part, (rank + 1) * part)
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __len__(self) -> int:
        return self.total - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        for iteration in range(self.start, self.total):
            yield self.batch(iteration)[self._mine]

    def batch(self, iteration: int) -> list[Key]:
        """Return the keys of the whole batch of an iteration, counted from 0."""
        epoch, place = divmod(iteration, self.batches_per_epoch)
        if epoch != self._epoch:
            generator = np.random.default_rng([self.seed, epoch])
            self._epoch, self._order = epoch, generator.permutation(self.images)
        chosen = self._order[place * self.batch_size : (place + 1) * self.batch_size]
        return [(epoch, int(index)) for index in chosen]


def choose_data_path(asked: str, before: str | None, dataset: Dataset, device: torch.device) -> str:
    """Return ``device`` or ``workers``.

    Args:
        asked: ``auto``, ``device`` or ``workers``. ``auto`` takes the path of the continued run,
            and for a new run a GPU's memory; but never a device that is too small for the split.
        before: the path of the run that is continued.
    """
    if asked != "auto":
        return asked
    wanted = before or ("device" if device.type == "cuda" else "workers")
    return "device" if wanted == "device" and fits_on(device, dataset) else "workers"


def batches(
    path: str,
    dataset: Dataset,
    augmentation: Augmentation,
    order: BatchOrder,
    device: torch.device,
    workers: int,
    shown: bool = True,
) -> Iterable[Batch]:
    """Return the batches of ``order``, made on the path ``device`` or ``workers``.

    Each iteration over what is returned begins at the start of ``order``.

    Args:
        workers: processes that augment; 0 does it in the training process.
        shown: whether a progress bar may appear while the images are loaded.

    Raises:
        DifferentSizes: the path is ``device``, and the images are not of one size.
    """
    if path == "device":
        with progress_bar("filling the device", len(dataset), shown=shown) as step:
            held = OnDevice(dataset, device, step)
        return DeviceBatches(held, augmentation, order, order.seed)
    if workers and isinstance(dataset, OnHost):
        with progress_bar("reading the images", len(dataset), shown=shown) as step:
            dataset.fill(step)
    return DataLoader(
        AugmentedImages(dataset, augmentation, order.seed),
        batch_sampler=order,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=begin_worker,
    )


class AugmentedImages(TorchDataset[Batch]):
    """One image and its label after augmentation, by key."""

    def __init__(self, dataset: Dataset, augmentation: Augmentation, seed: int) -> None:
        self.dataset, self.augmentation, self.seed = dataset, augmentation, seed

    def __getitem__(self, key: Key) -> Batch:
        item = self.dataset[key[1]]
        size, coarse = item.label.shape, coarse_label(item.label)
        placement = self.augmentation.draw(size, _generator_of(self.seed, key), coarse)
        image, label = crop_one(item, placement, self.augmentation)
        return torch.from_numpy(image), torch.from_numpy(label)


class DeviceBatches:
    """Batches in the given order, each augmented as a whole on the data set's device."""

    def __init__(
        self, data: OnDevice, augmentation: Augmentation, order: Iterable[Sequence[Key]], seed: int
    ) -> None:
        self.data, self.augmentation, self.order, self.seed = data, augmentation, order, seed
        self.coarse = coarse_label(data.labels).cpu().numpy()

    def __iter__(self) -> Iterator[Batch]:
        size, draw = self.data.size, self.augmentation.draw
        for keys in self.order:
            placements = [
                draw(size, _generator_of(self.seed, key), self.coarse[key[1]]) for key in keys
            ]
            images, labels = self.data.take([index for _, index in keys])
            yield crop_batch(images, labels, placements, self.augmentation)


def _generator_of(seed: int, key: Key) -> np.random.Generator:
    """The random numbers of one image's augmentation."""
    return np.random.default_rng([seed, *key])


def begin_worker(worker: int) -> None:
    """Give a worker a process group of its own, and let it end with its parent.

    Ctrl-C, and the SIGTERM of torchrun, timeout or a batch system, reach a whole group; a worker
    that ends breaks the last step.
    """
    os.setpgid(0, 0)
    end_with_parent()
