"""Augmentation and resizing of labelled images, on uint8 arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from dabnet.data.dataset import LabelledImage, Uint8Array


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random scale, mirror and crop with padding, as in the published training.

    Attributes:
        crop: (height, width) of the result.
        scales: one is drawn for each image.
        fill_rgb: padding of the image: the mean, which the preprocessing turns into 0.
        ignore: padding of the label.
    """

    crop: tuple[int, int]
    scales: tuple[float, ...]
    fill_rgb: tuple[int, int, int]
    ignore: int

    def __call__(
        self, item: LabelledImage, rng: np.random.Generator
    ) -> tuple[Uint8Array, Uint8Array]:
        """Return image uint8 (h, w, 3) and label uint8 (h, w) of the crop's size."""
        height, width = item.label.shape
        scale = self.scales[rng.integers(len(self.scales))]
        scaled = (round(height * scale), round(width * scale))
        # Only the part that the crop will show is resampled: the same pixels, less work.
        shown = tuple(min(c, s) for c, s in zip(self.crop, scaled, strict=True))
        top, left = (int(rng.integers(s - v + 1)) for s, v in zip(scaled, shown, strict=True))
        box = (
            left * width / scaled[1],
            top * height / scaled[0],
            (left + shown[1]) * width / scaled[1],
            (top + shown[0]) * height / scaled[0],
        )
        target = (shown[1], shown[0])
        image = Image.fromarray(item.image).resize(target, Image.Resampling.BILINEAR, box)
        label = Image.fromarray(item.label).resize(target, Image.Resampling.NEAREST, box)
        mirror = -1 if rng.random() < 0.5 else 1

        image_out = np.empty((*self.crop, 3), np.uint8)
        image_out[:] = self.fill_rgb
        label_out = np.full(self.crop, self.ignore, np.uint8)
        y, x = (int(rng.integers(c - v + 1)) for c, v in zip(self.crop, shown, strict=True))
        image_out[y : y + shown[0], x : x + shown[1]] = np.asarray(image)[:, ::mirror]
        label_out[y : y + shown[0], x : x + shown[1]] = np.asarray(label)[:, ::mirror]
        return image_out, label_out


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
