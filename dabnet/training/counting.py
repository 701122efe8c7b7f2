"""Reading a whole split before training, shared by the processes of a run."""

from __future__ import annotations

from pathlib import Path

import torch

from dabnet.console import progress_bar
from dabnet.data.dataset import Dataset
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
