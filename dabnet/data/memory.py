"""Data sets held in memory, as uint8: on the host image by image, or on a device as two tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from dabnet.data.dataset import Dataset, LabelledImage
from dabnet.errors import InputError

if TYPE_CHECKING:
    import torch  # a machine that only runs artifacts lacks it
    from torch import Tensor

HOST_BYTES = 4 << 30
"""A split up to this size is held on the host: CamVid and toy street are, Cityscapes is not."""

MOST_THREADS = 16

DEVICE_SHARE = 0.4
"""A split up to this share of a GPU's free memory is held there."""


Index = TypeVar("Index")
Item = TypeVar("Item")


def read_ahead(
    read: Callable[[Index], Item],
    indices: Iterable[Index],
    threads: int | None = None,
    ahead: int | None = None,
) -> Iterator[Item]:
    """Yield ``read(index)`` of ``indices`` in order, by as many threads as there are cores.

    Decoding a PNG releases Python's lock, so threads read in parallel.

    Args:
        read: safe to call from several threads at a time.
        indices: taken one at a time.
        threads: None takes as many as there are cores, at most 16.
        ahead: maximum number of items that are read or wait to be taken; None: two per thread,
            and none on a single core.
    """
    threads = threads or min(MOST_THREADS, usable_cores())
    if threads < 2 and ahead is None:
        yield from map(read, indices)
        return
    remaining = iter(indices)
    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(read, i) for i in islice(remaining, ahead or 2 * threads)]
        try:
            while waiting:
                item = waiting.pop(0).result()
                waiting += [pool.submit(read, i) for i in islice(remaining, 1)]
                yield item
        finally:
            for future in waiting:
                future.cancel()


def usable_cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def bytes_needed(dataset: Dataset) -> int:
    """Return the bytes of the decoded split, estimated from its first image."""
    first = dataset[0]
    return len(dataset) * (first.image.nbytes + first.label.nbytes)


class OnHost:
    """A data set in the memory of the host; each image is read once."""

    def __init__(self, dataset: Dataset) -> None:
        self.name, self.split, self.labels = dataset.name, dataset.split, dataset.labels
        self.fingerprint = dataset.fingerprint
        self._dataset = dataset
        self._items: list[LabelledImage | None] = [None] * len(dataset)

    def fill(self, progress: Callable[[], None] = lambda: None) -> None:
        """Read all images that are not in memory yet, before forked processes each do so."""
        missing = [index for index, item in enumerate(self._items) if item is None]
        items = read_ahead(self._dataset.__getitem__, missing)
        for index, item in zip(missing, items, strict=True):
            self._items[index] = item
            progress()

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> LabelledImage:
        item = self._items[index]
        if item is None:
            item = self._items[index] = self._dataset[index]
        return item


def on_host_if_small(dataset: Dataset, budget: int = HOST_BYTES) -> Dataset:
    """Return the data set, in memory if it fits into ``budget`` bytes."""
    return OnHost(dataset) if bytes_needed(dataset) <= budget else dataset


class DifferentSizes(InputError):
    """The images of a split have several sizes, so that they fit into no tensor."""


class OnDevice:
    """A data set as two tensors on a device.

    Attributes:
        images: uint8 (n, H, W, 3).
        labels: uint8 (n, H, W).
        size: (H, W), the same for all images.

    Raises:
        DifferentSizes: an image has another size than the first.
    """

    def __init__(
        self,
        dataset: Dataset,
        device: torch.device,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        import torch

        height, width = self.size = dataset[0].label.shape
        count = len(dataset)
        self.images = torch.empty((count, height, width, 3), dtype=torch.uint8, device=device)
        self.labels = torch.empty((count, height, width), dtype=torch.uint8, device=device)
        for index, item in enumerate(read_ahead(dataset.__getitem__, range(count))):
            if item.label.shape != self.size:
                raise DifferentSizes(
                    f"{item.name} is {item.label.shape[0]}x{item.label.shape[1]} and the first"
                    f" image {height}x{width}",
                    "images of one size for --data-path device",
                    "use --data-path workers",
                )
            # Copies: arrays that Pillow gives are read-only, which tensors cannot be.
            self.images[index] = torch.tensor(item.image)
            self.labels[index] = torch.tensor(item.label)
            progress()

    def take(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return images (N, H, W, 3) and labels (N, H, W) of the given indices."""
        import torch

        chosen = without_waiting(torch.tensor(indices), self.images.device)
        return self.images[chosen], self.labels[chosen]


def fits_on(device: torch.device, dataset: Dataset) -> bool:
    """Whether the decoded split leaves a device enough memory to train in."""
    if device.type != "cuda":
        return bytes_needed(dataset) <= HOST_BYTES
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return bytes_needed(dataset) <= DEVICE_SHARE * free


def without_waiting(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a small tensor of the host to ``device``; a GPU gets it in its turn."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
