"""Resizing of labelled images, on uint8 arrays."""

from __future__ import annotations

import numpy as np
from PIL import Image

from dabnet.data.dataset import LabelledImage, Uint8Array


def resize_image(image: Uint8Array, size: tuple[int, int]) -> Uint8Array:
    """Resize uint8 (H, W, 3) to (height, width) bilinearly, with antialiasing when it shrinks."""
    if image.shape[:2] == size:
        return image
    height, width = size
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def resize_label(label: Uint8Array, size: tuple[int, int]) -> Uint8Array:
    """Resize class indices uint8 (H, W) to (height, width) by the nearest pixel."""
    if label.shape == size:
        return label
    height, width = size
    return np.asarray(Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST))


def resize(item: LabelledImage, size: tuple[int, int]) -> LabelledImage:
    """Resize image and label of one item to (height, width)."""
    return LabelledImage(item.name, resize_image(item.image, size), resize_label(item.label, size))
