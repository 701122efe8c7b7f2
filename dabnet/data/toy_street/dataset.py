"""Toy street as a data set, and on disk in the layout of CamVid."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from PIL import Image

from dabnet.data.camvid import CAMVID
from dabnet.data.dataset import LabelledImage
from dabnet.data.toy_street.scene import draw_scene
from dabnet.errors import InputError
from dabnet.files import writable_directory, write_text

SMALLEST_SIDE = 32
LENGTHS = {"train": 200, "val": 50, "trainval": 250, "test": 50}
# A stream of random numbers of its own for each split, so that no scene is in two splits.
STREAMS = {"train": 0, "val": 1, "test": 2}


class ToyStreet:
    """A split of toy street; every image is drawn on demand.

    Image ``index`` is a function of (seed, split, index, size) alone; other sizes of the same
    shape show the same scene. ``trainval`` is ``train`` followed by ``val``.

    Args:
        split: one of ``LENGTHS``.
        size: (height, width) of the images in pixels, each at least 32.
        length: number of images; by default that of ``LENGTHS``. Four fifths of ``trainval``
            (rounded down) are of ``train``.
        seed: a number ≥ 0; another seed gives other scenes.
    """

    name = "toy-street"
    labels = CAMVID  # so that a network can move between the two

    def __init__(
        self,
        split: str,
        size: tuple[int, int] = (360, 480),
        length: int | None = None,
        seed: int = 0,
    ) -> None:
        if split not in LENGTHS:
            raise InputError(
                f"unknown split {split!r} of toy street", "one of " + ", ".join(LENGTHS)
            )
        if length is not None and length < 1:
            raise InputError(f"a toy street of {length} images", "a length of at least 1")
        if seed < 0:
            raise InputError(f"seed {seed}", "a whole number ≥ 0")
        self.split, self.size, self._seed = split, _checked_size(size), seed
        self._length = length or LENGTHS[split]

    def fingerprint(self) -> None:
        """Nothing on disk to compare with: what is drawn is the code's."""

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> LabelledImage:
        """Draw scene ``index`` (0 to ``len - 1``): image (H, W, 3) and label (H, W), uint8."""
        i = operator.index(index)
        if not 0 <= i < self._length:
            raise IndexError(
                f"index {i} is outside toy street's {self.split} split of {self._length} images"
            )
        split = self.split
        if split == "trainval":
            of_train = self._length * 4 // 5
            split, i = ("train", i) if i < of_train else ("val", i - of_train)
        image, label = draw_scene((self._seed, STREAMS[split], i), self.size)
        return LabelledImage(f"toy_{split}_{i:05d}", image, label)


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    try:
        height, width = map(operator.index, size)
    except (TypeError, ValueError):
        raise InputError(f"image size {size!r}", "two whole numbers: height, width") from None
    if min(height, width) < SMALLEST_SIDE:
        raise InputError(
            f"image size {height}×{width} (height × width)", f"sides of at least {SMALLEST_SIDE} px"
        )
    return height, width


def write_camvid_tree(
    directory: str | Path,
    size: tuple[int, int] = (360, 480),
    splits: Mapping[str, int] = MappingProxyType({"train": 8, "val": 4}),
    seed: int = 0,
) -> Path:
    """Write toy street as PNG files in the layout of ``dabnet.data.camvid``.

    Args:
        directory: where to write; it is made if need be.
        size: (height, width) in pixels.
        splits: how many images of ``train``, ``val`` and ``test`` to write.
        seed: as for ``ToyStreet``.

    Returns:
        the directory.
    """
    if unknown := splits.keys() - STREAMS.keys():
        raise InputError(
            f"cannot write the split {min(unknown)!r}", "some of " + ", ".join(STREAMS)
        )
    datasets = [ToyStreet(split, size, count, seed) for split, count in splits.items()]
    root = writable_directory(directory)
    lists = {"trainval": ""}
    for dataset in datasets:
        split, lines = dataset.split, ""
        folders = [writable_directory(root / name) for name in (split, f"{split}annot")]
        for item in map(dataset.__getitem__, range(len(dataset))):
            for folder, pixels in zip(folders, (item.image, item.label), strict=True):
                Image.fromarray(pixels).save(folder / f"{item.name}.png")
            lines += f"{split}/{item.name}.png {split}annot/{item.name}.png\n"
        lists[split] = lines
    # The lists come last: they never name a file that is not there.
    lists["trainval"] = lists.get("train", "") + lists.get("val", "")
    for split, lines in lists.items():
        write_text(root / f"camvid_{split}_list.txt", lines)
    return root
