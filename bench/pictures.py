"""Overlay pictures: image, truth and what each backend says, for a person to look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dabnet.data.dataset import Dataset, evenly_spaced
from dabnet.data.transforms import resize
from dabnet.files import replacing
from dabnet.pictures import overlay, panel
from dabnet.runtime.runner import Runner


def save_pictures(
    runners: Mapping[str, Runner],
    dataset: Dataset,
    size: tuple[int, int],
    count: int,
    folder: Path,
) -> list[Path]:
    """Write ``count`` panels of evenly spaced images of the split as PNG; return their paths."""
    written = []
    for index in evenly_spaced(len(dataset), count):
        item = resize(dataset[index], size)
        shown = [
            ("image", item.image),
            ("truth", overlay(item.image, item.label, dataset.labels)),
        ]
        for name, runner in runners.items():
            batch = np.repeat(item.image[None], runner.info.shape[0], axis=0)
            mask = runner.infer(batch)[0]
            shown.append((name, overlay(item.image, mask, dataset.labels)))
        path = folder / f"overlay_{item.name}.png"
        with replacing(path) as temporary:
            panel(shown).save(temporary)
        written.append(path)
    return written
