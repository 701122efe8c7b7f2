"""Toy street on disk, in the layout of CamVid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from PIL import Image

from dabnet.data.toy_street.dataset import STREAMS, ToyStreet
from dabnet.errors import InputError
from dabnet.files import replacing, writable_directory, write_text

_LENGTHS: Mapping[str, int] = MappingProxyType({"train": 8, "val": 4})


def write_camvid_tree(
    directory: str | Path,
    size: tuple[int, int] = (360, 480),
    splits: Mapping[str, int] = _LENGTHS,
    seed: int = 0,
) -> Path:
    """Write toy street as PNG files in the layout of CamVid in the DABNet repository.

    A split's images (RGB) go to ``SPLIT/NAME.png``, its labels (8-bit, one channel, label
    values) to ``SPLITannot/NAME.png``, and ``camvid_SPLIT_list.txt`` has a line
    ``SPLIT/NAME.png SPLITannot/NAME.png`` for each; ``camvid_trainval_list.txt`` joins two.

    Args:
        directory: where to write; it is made if need be.
        size: (height, width) in pixels.
        splits: how many images of ``train``, ``val`` and ``test`` to write.
        seed: as for ``ToyStreet``.

    Returns:
        the directory.
    """
    for split in splits:
        if split not in STREAMS:
            raise InputError(f"cannot write the split {split!r}", "some of " + ", ".join(STREAMS))
    datasets = [ToyStreet(split, size, count, seed) for split, count in splits.items()]
    root = writable_directory(directory)
    lists: dict[str, list[str]] = {"trainval": []}
    for dataset in datasets:
        split = dataset.split
        folders = (split, f"{split}annot")
        for folder in folders:
            writable_directory(root / folder)
        lists[split] = []
        for item in (dataset[i] for i in range(len(dataset))):
            names = [f"{folder}/{item.name}.png" for folder in folders]
            for name, pixels in zip(names, (item.image, item.label), strict=True):
                with replacing(root / name) as temporary:
                    Image.fromarray(pixels).save(temporary)
            lists[split].append(" ".join(names) + "\n")
    # The lists come last: they never name a file that is not there.
    lists["trainval"] = lists.get("train", []) + lists.get("val", [])
    for split, lines in lists.items():
        write_text(root / f"camvid_{split}_list.txt", "".join(lines))
    return root
