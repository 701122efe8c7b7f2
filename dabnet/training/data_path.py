"""Where training batches are made: on the device that holds the data set, or by workers.

Reading a whole split before training, shared by the processes of a run.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

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
from dabnet.data.memory import OnDevice, OnHost, fits_on
from dabnet.data.statistics import CountsCache, SplitCounts, count_pixels
from dabnet.training.processes import Processes


def counts_of(
    dataset: Dataset,
    what: str,
    cache_dir: Path | None,
    processes: Processes,
    device: torch.device,
) -> SplitCounts:
    """Return the pixel counts of a split, from the cache where it has them.

    Reading it also meets bad files now, not epochs later. Each process reads its share.

    Args:
        what: shown beside the progress bar.
        cache_dir: where counts are kept; None keeps none.
        device: where the processes add up.
    """
    cache = CountsCache(cache_dir) if cache_dir else None
    known = cache.load(dataset) if cache else None
    if processes.agree(known is not None, device) and known is not None:
        return known
    share = processes.share(len(dataset))
    with progress_bar(what, len(share), shown=processes.first) as step:
        part = count_pixels(dataset, share, step)
    numbers = [*part.class_pixels, *part.colour_sum, part.pixels]
    sums = processes.sum_(torch.tensor(numbers, dtype=torch.int64, device=device)).tolist()
    counts = SplitCounts(tuple(sums[:-4]), tuple(sums[-4:-1]), sums[-1])
    if cache and processes.first:
        cache.store(dataset, counts)
    return counts


DATA_PATHS = ("auto", "device", "workers")


def choose_data_path(asked: str, before: str | None, dataset: Dataset, device: torch.device) -> str:
    """Return ``device`` or ``workers``.

    Args:
        asked: one of ``DATA_PATHS``. ``auto`` takes what the run had before, and for a new run a
            GPU's memory; but never a device where the split does not fit.
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

    Args:
        shown: whether a progress bar may be, while the images are put where they are needed.

    Raises:
        DifferentSizes: the path is ``device``, and the images are not of one size.
    """
    if path == "device":
        with progress_bar("filling the device", len(dataset), shown=shown) as step:
            held = OnDevice(dataset, device, step)
        return device_batches(held, augmentation, order, order.seed)
    if workers and isinstance(dataset, OnHost):
        with progress_bar("reading the images", len(dataset), shown=shown) as step:
            dataset.fill(step)
    images = AugmentedImages(dataset, augmentation, order.seed)
    return worker_batches(images, order, workers, pin=device.type == "cuda")
