"""What a row's masks are worth."""

from __future__ import annotations

from dataclasses import dataclass

from dabnet.intervals import Interval


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy at one size of the labels.

    Attributes:
        miou: mean of the classes' IoU.
        miou_difference: to the reference, paired image by image; None of the reference itself.
        class_iou: in the order of ``Report.classes``; None for a class that does not occur.
        category_iou: in the order of ``Report.categories``.
        pixel_accuracy: share of labelled pixels that are right.
        hits, unions: pixels of each image (outer) and class (inner): their sums give each IoU.
    """

    miou: Interval
    miou_difference: Interval | None
    class_iou: tuple[float | None, ...]
    category_iou: tuple[float | None, ...]
    pixel_accuracy: float
    hits: tuple[tuple[int, ...], ...]
    unions: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What one row's masks are worth.

    Attributes:
        score: at the size that is timed; None without labels.
        native_score: with the mask enlarged (nearest pixel) to the labels' own size; None where
            that is the size that is timed.
        agreement: share of each image's pixels that the reference says, too.
        arithmetic: in which int8 it was taken (``RunnerInfo.arithmetic``); where it is not that of
            what was timed, the two ``timed_`` attributes say how far that differs.
        timed_agreement: share of pixels on which the timed masks equal the scored ones.
        timed_miou: mean IoU of the timed masks.
        calibrated_on: which images the INT8 ranges are of, in words; "" for none.
        overlap: names of scored images among them.
    """

    score: Score | None = None
    native_score: Score | None = None
    agreement: tuple[float, ...] | None = None
    arithmetic: str = ""
    timed_agreement: float | None = None
    timed_miou: float | None = None
    calibrated_on: str = ""
    overlap: tuple[str, ...] = ()
