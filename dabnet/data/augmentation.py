"""Random scale, mirror and crop with padding: drawn once, applied to one image or to a batch; and
whole images, as they are validated.

Both ways of a crop show the same pixels. ``crop_one`` is faster on a CPU and in worker processes;
``crop_batch`` works on tensors wherever they lie, so that a GPU which holds the data set augments
without a copy from the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from dabnet.data.dataset import LabelledImage, Uint8Array
from dabnet.data.images import resize_image
from dabnet.data.memory import without_waiting

COARSE = 8  # pixels

Labels = TypeVar("Labels", Uint8Array, Tensor)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """The random transforms, as in the published training.

    Attributes:
        crop: (height, width) of the result.
        scales: one is drawn per image.
        fill_rgb: padding of the image: the mean, which the preprocessing turns into 0, unless the
            colours are changed.
        ignore: padding of the label.
        rare: share of the crops that show a pixel of a class drawn from those in the image, each
            as likely as another (Zhu et al. 2019, arXiv 1812.01593, section 3.3); the others lie
            anywhere.
    """

    crop: tuple[int, int]
    scales: tuple[float, ...]
    fill_rgb: tuple[int, int, int]
    ignore: int
    rare: float = 0.0

    def draw(
        self, size: tuple[int, int], rng: np.random.Generator, coarse: Uint8Array | None = None
    ) -> Placement:
        """Draw the transform of an image of ``size`` (height, width).

        ``coarse`` is its label as ``coarse_label`` returns it; only ``rare`` needs it.
        """
        scale = self.scales[rng.integers(len(self.scales))]
        scaled = [round(side * scale) for side in size]
        shown = [min(c, s) for c, s in zip(self.crop, scaled, strict=True)]
        first = [int(rng.integers(s - v + 1)) for s, v in zip(scaled, shown, strict=True)]
        mirror = bool(rng.random() < 0.5)
        place = [int(rng.integers(c - v + 1)) for c, v in zip(self.crop, shown, strict=True)]
        if coarse is not None and self.rare and rng.random() < self.rare:
            first = self._towards_a_class(coarse, scaled, shown, rng) or first
        rows, columns = (
            Span(side, s, f, v, p)
            for side, s, f, v, p in zip(size, scaled, first, shown, place, strict=True)
        )
        return Placement(rows, columns, mirror)

    def _towards_a_class(
        self, coarse: Uint8Array, scaled: list[int], shown: list[int], rng: np.random.Generator
    ) -> list[int]:
        """Return the first row and column of a crop that shows a pixel of a class; [] if the label
        has none."""
        classes = np.setdiff1d(coarse, self.ignore)
        if not len(classes):
            return []
        found = np.argwhere(coarse == rng.choice(classes))
        centre = (found[rng.integers(len(found))] + 0.5) / coarse.shape * scaled
        lowest = [max(0, int(c) - s + 1) for c, s in zip(centre, shown, strict=True)]
        highest = [min(int(c), n - s) for c, n, s in zip(centre, scaled, shown, strict=True)]
        return [int(rng.integers(a, b + 1)) for a, b in zip(lowest, highest, strict=True)]


def coarse_label(label: Labels) -> Labels:
    """Return every 8th row and column of a label (H, W), or of labels (n, H, W)."""
    return label[..., COARSE // 2 :: COARSE, COARSE // 2 :: COARSE]


def whole_image(
    image: Uint8Array, scale: float, stride: int, fill_rgb: Sequence[int]
) -> tuple[Uint8Array, tuple[int, int]]:
    """Return an image as a network takes it, and the (height, width) that is the image there.

    It is resized by ``scale``, then padded with ``fill_rgb`` at the right and bottom until both
    sides are multiples of ``stride``.
    """
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    resized = resize_image(image, (height, width))
    sides = [-(-side // stride) * stride for side in (height, width)]
    if sides == [height, width]:
        return resized, (height, width)
    padded = np.empty((*sides, 3), np.uint8)
    padded[:] = fill_rgb
    padded[:height, :width] = resized
    return padded, (height, width)


@dataclass(frozen=True, slots=True)
class Span:
    """One axis of a crop: ``shown`` pixels of the scaled image, from ``first``, put at ``place``.

    Attributes:
        size: pixels of the source.
        scaled: pixels of the source after the resize.
    """

    size: int
    scaled: int
    first: int
    shown: int
    place: int

    @property
    def box(self) -> tuple[float, float]:
        """The part of the source that is shown, in its pixels: (from, to)."""
        step = self.size / self.scaled
        return self.first * step, (self.first + self.shown) * step

    def centres(self, length: int, mirror: bool) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return where each of ``length`` output pixels lies in the source, and which show it.

        A centre is in source pixels; the source's pixel i covers i to i + 1.
        """
        index = np.arange(length) - self.place
        inside = (index >= 0) & (index < self.shown)
        if mirror:
            index = self.shown - 1 - index
        # As Pillow does it, so that ties fall alike: a box in float32, steps added up.
        start, stop = np.array(self.box, np.float32)
        step = float(stop - start) / self.shown
        steps = np.full(self.shown, step)
        steps[0] = float(start) + 0.5 * step
        return steps.cumsum()[index.clip(0, self.shown - 1)], inside


@dataclass(frozen=True, slots=True)
class Placement:
    """The transform of one image."""

    rows: Span
    columns: Span
    mirror: bool


def crop_one(
    item: LabelledImage, placement: Placement, augmentation: Augmentation
) -> tuple[Uint8Array, Uint8Array]:
    """Return image uint8 (h, w, 3) and label uint8 (h, w) of the crop's size."""
    rows, columns = placement.rows, placement.columns
    # Only the part that the crop will show is resampled: the same pixels, less work.
    (top, bottom), (left, right) = rows.box, columns.box
    box, target = (left, top, right, bottom), (columns.shown, rows.shown)
    window = (
        slice(rows.place, rows.place + rows.shown),
        slice(columns.place, columns.place + columns.shown),
    )
    side = -1 if placement.mirror else 1

    def cropped(array: Uint8Array, how: Image.Resampling, fill: ArrayLike) -> Uint8Array:
        shown = np.asarray(Image.fromarray(array).resize(target, how, box))
        out = np.empty((*augmentation.crop, *array.shape[2:]), np.uint8)
        out[:] = fill
        out[window] = shown[:, ::side]
        return out

    return (
        cropped(item.image, Image.Resampling.BILINEAR, augmentation.fill_rgb),
        cropped(item.label, Image.Resampling.NEAREST, augmentation.ignore),
    )


def crop_batch(
    images: Tensor, labels: Tensor, placements: Sequence[Placement], augmentation: Augmentation
) -> tuple[Tensor, Tensor]:
    """Crop a batch where its tensors lie.

    A bilinear resize with antialiasing is linear along each axis, and so are crop, mirror and
    padding: for a batch, all of them are one matrix product per axis.

    Args:
        images: uint8 (N, H, W, 3).
        labels: uint8 (N, H, W).
        placements: one per image.

    Returns:
        images uint8 (N, h, w, 3) and labels uint8 (N, h, w). Labels equal those of ``crop_one``;
        values of images do too, except ties of rounding, which differ by 1, rarely by 2.
    """
    height, width = augmentation.crop
    device = images.device
    rows = _Axis([p.rows for p in placements], [False] * len(placements), height, device)
    columns = _Axis([p.columns for p in placements], [p.mirror for p in placements], width, device)
    inside = rows.inside[:, :, None] & columns.inside[:, None, :]  # (N, h, w)

    planes = images.permute(0, 3, 1, 2).to(torch.float32)  # (N, 3, H, W)
    # Rounded between the axes and halves upwards, as Pillow does.
    wide = (planes @ columns.weights().transpose(1, 2)[:, None]).add_(0.5).floor_()  # (N, 3, H, w)
    resized = (rows.weights()[:, None] @ wide).add_(0.5).floor_()  # (N, 3, h, w)
    fill = without_waiting(torch.tensor(augmentation.fill_rgb, dtype=torch.float32), device)
    padded = torch.where(inside[:, None], resized, fill.view(1, 3, 1, 1))

    each = torch.arange(len(placements), device=device)[:, None, None]
    nearest = labels[each, rows.nearest()[:, :, None], columns.nearest()[:, None, :]]
    return (
        padded.to(torch.uint8).permute(0, 2, 3, 1).contiguous(),
        nearest.masked_fill(~inside, augmentation.ignore),
    )


def recoloured(pixels: Tensor, drawn: Tensor) -> Tensor:
    """Return images under other light, each by numbers of its own.

    Brightness, contrast and saturation are multiplied by 1 + x, as in Liu et al. 2016, arXiv
    1512.02325, section 2.2; then the image, from 0 to 1, is raised to the power exp(x) (gamma).
    Padding changes with its image.

    Args:
        pixels: uint8 (N, h, w, 3).
        drawn: float32 (4, N) on the CPU, an x above -1 for each; 0 changes nothing.
    """
    numbers = without_waiting(drawn[..., None, None, None], pixels.device)
    brightness, contrast, saturation, power = numbers
    image = pixels.float() * ((1 + brightness) / 255)
    image = image.mean((1, 2, 3), keepdim=True).lerp(image, 1 + contrast)
    image = image.mean(3, keepdim=True).lerp(image, 1 + saturation)
    image = torch.pow(image.clamp_(0, 1), power.exp())
    return image.mul_(255).round_().to(torch.uint8)


class _Axis:
    """One axis of a batch: which source pixels make up each output pixel."""

    def __init__(
        self, spans: Sequence[Span], mirrors: Sequence[bool], length: int, device: torch.device
    ) -> None:
        found = [span.centres(length, mirror) for span, mirror in zip(spans, mirrors, strict=True)]
        self.size = spans[0].size
        centres = torch.from_numpy(np.stack([centre for centre, _ in found]))
        steps = torch.tensor([span.size / span.scaled for span in spans], dtype=torch.float64)
        inside = torch.from_numpy(np.stack([shows for _, shows in found]))
        self.centres = without_waiting(centres, device)  # float64 (N, length)
        self.inside = without_waiting(inside, device)
        self.steps = without_waiting(steps, device)[:, None, None]

    def weights(self) -> Tensor:
        """Return the triangle filter of each output pixel, float32 (N, length, size).

        Its half width is one source pixel, or one output pixel where that is larger.
        """
        places = torch.arange(self.size, device=self.centres.device) + 0.5
        distance = (places - self.centres[:, :, None]).abs()
        weights = (1 - distance / self.steps.clamp_min(1)).clamp_min_(0)
        return (weights / weights.sum(-1, keepdim=True)).to(torch.float32)

    def nearest(self) -> Tensor:
        """Return the source pixel that each output pixel's centre falls into, int64 (N, length)."""
        return self.centres.floor().long().clamp_(0, self.size - 1)
