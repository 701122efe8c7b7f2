"""Where training batches are made: on the device that holds the data set, or by workers."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from dabnet.console import progress_bar
from dabnet.data.augmentation import Augmentation
from dabnet.data.batches import (
    AugmentedImages,
    Batch,
    BatchOrder,
    device_batches,
    worker_batches,
)
from dabnet.data.dataset import Dataset
from dabnet.data.memory import OnDevice, fits_on

DATA_PATHS = ("auto", "device", "workers")


def choose_data_path(asked: str, dataset: Dataset, device: torch.device) -> str:
    """Return ``device`` or ``workers``: ``auto`` takes a GPU's memory where the split fits."""
    if asked != "auto":
        return asked
    return "device" if device.type == "cuda" and fits_on(device, dataset) else "workers"


def batches(
    path: str,
    dataset: Dataset,
    augmentation: Augmentation,
    order: BatchOrder,
    device: torch.device,
    workers: int,
    held: OnDevice | None = None,
    shown: bool = True,
) -> Iterable[Batch]:
    """Return the batches of ``order``.

    Args:
        path: ``device`` or ``workers``.
        dataset: to augment; on the path ``device`` it is put there, unless ``held`` is it already.
        shown: whether a progress bar may be.
    """
    if path == "device":
        if held is None:
            with progress_bar("filling the device", len(dataset), shown=shown) as step:
                held = OnDevice(dataset, device, step)
        return device_batches(held, augmentation, order, order.seed)
    images = AugmentedImages(dataset, augmentation, order.seed)
    return worker_batches(images, order, workers, pin=device.type == "cuda")
