"""A data set of random images, in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dabnet.data.dataset import LabelledImage
from dabnet.data.labels import LabelSet

CLASSES = 3
IGNORE = 255
LABELS = LabelSet(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), IGNORE)


class FakeDataset:
    """Random images of several sizes whose labels have ignored pixels."""

    name, split, labels = "fake", "val", LABELS

    def fingerprint(self) -> None:
        return None

    def __init__(self, sizes: Sequence[tuple[int, int]]) -> None:
        random = np.random.default_rng(4)
        self.items = []
        self.read: list[int] = []
        for number, (height, width) in enumerate(sizes):
            label = random.integers(0, CLASSES, (height, width)).astype(np.uint8)
            label[random.random(label.shape) < 0.1] = IGNORE
            image = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
            self.items.append(LabelledImage(f"image {number}", image, label))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> LabelledImage:
        self.read.append(index)
        return self.items[index]
