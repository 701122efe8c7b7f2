"""Agreement of two artifacts: masks, logits and confidences of both, image by image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dabnet.data.dataset import Uint8Array
from dabnet.data.images import SizedImages
from dabnet.errors import ArtifactError
from dabnet.head import LARGEST
from dabnet.intervals import mean_bounds
from dabnet.metrics import Counts, class_iou, confusion, difference_counts, mean_iou
from dabnet.runtime.manifest import ConfidenceDifference
from export.verify.sides import Logits, Side


@dataclass(frozen=True, slots=True)
class ImageAgreement:
    """Share of pixels of one image, 0…1, on which both masks are equal."""

    name: str
    agreement: float


@dataclass(frozen=True, slots=True)
class LogitDifference:
    """B's coarse logits less A's, over all images."""

    max_abs: float
    image: str  # where ``max_abs`` is
    sqnr_db: float | None  # power of A's logits over the difference's, in dB; None where equal


@dataclass(frozen=True, slots=True)
class Picture(ImageAgreement):
    """The image too, uint8 (H, W, 3), RGB, and both masks, uint8 (H, W)."""

    image: Uint8Array
    mask_a: Uint8Array
    mask_b: Uint8Array


@dataclass(frozen=True, slots=True)
class Verification:
    """How far B agrees with A."""

    a: dict[str, str]  # the artifacts in words: see ``Side.record``
    b: dict[str, str]
    images: str  # their number and source in words
    size: tuple[int, int]  # (height, width)
    classes: tuple[str, ...]
    per_image: tuple[ImageAgreement, ...]  # at least one
    matrix: Counts  # int64 (K, K) pixels, rows A's classes, columns B's
    logits: LogitDifference | None  # None where ``no_logits`` says why
    no_logits: str = ""
    confidence: ConfidenceDifference | None = None  # None unless both give it

    @property
    def shares(self) -> NDArray[np.float64]:
        return np.array([image.agreement for image in self.per_image])

    @property
    def agreement(self) -> float:
        """Mean share of equal pixels over images, 0…1."""
        return float(self.shares.mean())

    @property
    def worst(self) -> ImageAgreement:
        return min(self.per_image, key=lambda image: image.agreement)

    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean over images, by ``mean_bounds``; None for one image."""
        return mean_bounds(self.shares) if len(self.shares) > 1 else None

    def record(self) -> dict[str, Any]:
        """Plain values for JSON, under stable keys (docs/verify_inspect.md); shares are 0…1."""
        ious = class_iou(self.matrix)
        pixels = zip(self.matrix.sum(1).tolist(), self.matrix.sum(0).tolist(), strict=True)
        return {
            "format": 1,
            "a": self.a,
            "b": self.b,
            "images": self.images,
            "size": list(self.size),
            "agreement": {
                "mean": self.agreement,
                "interval_95": self.interval(),
                "median": float(np.median(self.shares)),
                "percentile_5": float(np.percentile(self.shares, 5)),
                "worst": self.worst.agreement,
                "worst_image": self.worst.name,
            },
            "mean_iou": float(mean_iou(self.matrix)),
            "classes": [
                {"name": name, "iou": None if np.isnan(iou) else float(iou)}
                | {"pixels_a": pixels_a, "pixels_b": pixels_b}
                for name, iou, (pixels_a, pixels_b) in zip(self.classes, ious, pixels, strict=True)
            ],
            "logits": dataclasses.asdict(self.logits) if self.logits else None,
            "no_logits": self.no_logits,
            "confidence": dataclasses.asdict(self.confidence) if self.confidence else None,
            "per_image": [dataclasses.asdict(image) for image in self.per_image],
        }


def verify(
    a: Side,
    b: Side,
    images: SizedImages,
    worst: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> tuple[Verification, list[Picture]]:
    """Run both artifacts on every image; ``a`` is the reference.

    Returns also the ``worst`` images of lowest agreement, worst first; memory holds no others.

    Raises:
        DabnetError: an image cannot be read, or an artifact gives what its manifest excludes.
    """
    classes = a.classes
    matrix: Counts = np.zeros((len(classes), len(classes)), np.int64)
    logits = _LogitSums()
    differences: Counts = np.zeros(LARGEST + 1, np.int64)  # pixels by that of their confidences
    per_image: list[ImageAgreement] = []
    kept: list[Picture] = []
    for item in images:
        mask_a, logits_a, confidence_a = a.run(item.image)
        mask_b, logits_b, confidence_b = b.run(item.image)
        if confidence_a is not None and confidence_b is not None:
            differences += difference_counts(confidence_a, confidence_b)
        share = float((mask_a == mask_b).mean())
        per_image.append(ImageAgreement(item.name, share))
        matrix += confusion(mask_b, mask_a, len(classes))
        logits.add(item.name, (a, logits_a), (b, logits_b))
        kept.append(Picture(item.name, share, item.image, mask_a, mask_b))
        kept = sorted(kept, key=lambda picture: picture.agreement)[:worst]
        progress()
    given = (a.record(), b.record(), images.description, images.size, classes)
    found = (tuple(per_image), matrix, logits.found(), logits.reason)
    confidence = ConfidenceDifference.of(differences.tolist()) if differences.any() else None
    return Verification(*given, *found, confidence), kept


def sqnr_db(signal: float, noise: float) -> float | None:
    """Signal to quantisation noise in dB of two sums of squares; None where either is 0."""
    return float(10 * np.log10(signal / noise)) if signal > 0 and noise > 0 else None


@dataclass(slots=True)
class _LogitSums:
    signal: float = 0.0  # of squares of A's logits
    noise: float = 0.0  # of squares of the differences
    largest: float = -1.0
    image: str = ""
    reason: str = ""

    def add(self, name: str, *sides: tuple[Side, Logits | None]) -> None:
        known = [(side, logits) for side, logits in sides if logits is not None]
        if len(known) < len(sides):
            silent = (str(side.path) for side, logits in sides if logits is None)
            self.reason = f"no logits can be read from {' and '.join(silent)}"
            return
        a, b = (logits for _, logits in known)
        if a.shape != b.shape:
            self.reason = f"A's logits are {a.shape} and B's {b.shape}"
            return
        for side, logits in known:
            if not np.isfinite(logits).all():
                given = f"{str(side.path)!r} gives NaN or infinite logits on {name!r}"
                fix = "its arithmetic overflows: export it again in fp32"
                raise ArtifactError(given, "finite logits", fix)
        difference = b.astype(np.float64) - a
        self.signal += float(np.square(a, dtype=np.float64).sum())
        self.noise += float(np.square(difference).sum())
        largest = float(np.abs(difference).max())
        if largest > self.largest:
            self.largest, self.image = largest, name

    def found(self) -> LogitDifference | None:
        if self.reason or not self.image:
            return None
        return LogitDifference(self.largest, self.image, sqnr_db(self.signal, self.noise))
