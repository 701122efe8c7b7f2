"""Normalisation of an image before the first convolution."""

from __future__ import annotations

from dataclasses import dataclass

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """``(image - mean_rgb) * scale`` per channel, on RGB values in 0…255.

    DABNet subtracts a mean and divides by nothing, so ``scale`` is 1 for its checkpoints
    (Reagan1311/DABNet, ``dataset/camvid.py`` and ``dataset/cityscapes.py``).
    """

    mean_rgb: Triple
    scale: Triple = (1.0, 1.0, 1.0)

    @property
    def fill_rgb(self) -> tuple[int, int, int]:
        """The colour, 0…255, that becomes 0: of the padding of an image."""
        red, green, blue = (round(value) for value in self.mean_rgb)
        return red, green, blue
