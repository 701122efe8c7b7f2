"""Images of a list in place of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from dabnet.data.dataset import LabelledImage, Uint8Array
from dabnet.data.image_files import image_sha256
from dabnet.data.images import SizedImage, SizedImages
from dabnet.data.labels import NO_LABELS


def sized_image(name: str, image: Uint8Array) -> SizedImage:
    """One image without a label, (H, W, 3)."""
    label = np.full(image.shape[:2], NO_LABELS.ignore, np.uint8)
    return SizedImage(name, image, label, label, image_sha256(image))


class ListedImages:
    """A data set of images without labels."""

    name, split, labels = "listed", "train", NO_LABELS

    def __init__(self, items: Sequence[tuple[str, Uint8Array]]) -> None:
        self.items = items

    def fingerprint(self) -> None:
        return None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> LabelledImage:
        name, image = self.items[index]
        return LabelledImage(name, image, np.full(image.shape[:2], NO_LABELS.ignore, np.uint8))


def sized_images(items: Iterable[tuple[str, Uint8Array]]) -> SizedImages:
    """All of them, at the size of the first."""
    listed = list(items)
    height, width, _ = listed[0][1].shape
    return SizedImages.first(ListedImages(listed), (height, width))
