"""Accuracy of anything that turns an image into a mask."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from dabnet.data.dataset import LabelledImage, Uint8Array
from dabnet.metrics import Counts, confusion

Segmenter = Callable[[Uint8Array], Uint8Array]
"""uint8 image (H, W, 3) → uint8 mask (H, W)."""


def confusion_per_image(
    segment: Segmenter,
    items: Iterable[LabelledImage],
    classes: int,
    progress: Callable[[], None] = lambda: None,
) -> Counts:
    """Return the confusion matrix of each image, int64 (images, K, K).

    Kept per image, so that two artifacts can be compared on the same images, pair by pair.
    """
    matrices = []
    for item in items:
        matrices.append(confusion(segment(item.image), item.label, classes))
        progress()
    return np.stack(matrices) if matrices else np.zeros((0, classes, classes), np.int64)
