"""Segmentation metrics as pure functions of a confusion matrix.

A confusion matrix is int64 (K, K): rows are the truth, columns the prediction, counts in pixels.
Pixels whose truth is the ignore value are not counted.

Accuracy of anything that turns an image into a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dabnet.data.dataset import LabelledImage, Uint8Array

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


def confusion(prediction: NDArray[np.uint8], truth: NDArray[np.uint8], classes: int) -> Counts:
    """Count (truth, prediction) pairs of two uint8 arrays of one shape.

    Truth values of ``classes`` and above are ignored; a prediction must be a class.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    valid = truth < classes
    predicted = prediction[valid]
    if predicted.size and int(predicted.max()) >= classes:
        raise ValueError(f"a prediction of class {predicted.max()} among {classes} classes")
    pairs = truth[valid].astype(np.intp) * classes + predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def class_iou(matrix: Counts) -> Floats:
    """Intersection over union of each class, 0…1; NaN for a class in neither truth nor prediction.

    Accepts (..., K, K) and returns (..., K).
    """
    hit = np.diagonal(matrix, axis1=-2, axis2=-1)
    return _over_union(hit, matrix.sum(-1) + matrix.sum(-2) - hit)


def category_iou(matrix: Counts, categories: Sequence[tuple[str, tuple[int, ...]]]) -> Floats:
    """Intersection over union of classes merged into categories, 0…1, in the given order.

    A pixel is right if truth and prediction lie in one category, whichever of its classes they
    are. NaN for a category in neither truth nor prediction. As ``getIouScoreForCategory`` of
    cityscapesScripts, evaluation/evalPixelLevelSemanticLabeling.py; ignored pixels are not in
    the matrix, there as here.

    Args:
        matrix: int64 (..., K, K).
        categories: C pairs of a name and the class indices it covers (``LabelSet.categories``).

    Returns:
        float64 (..., C).
    """
    member = np.zeros((matrix.shape[-1], len(categories)), np.int64)
    for column, (_, classes) in enumerate(categories):
        member[list(classes), column] = 1
    truth, predicted = matrix.sum(-1) @ member, matrix.sum(-2) @ member
    hit = ((matrix @ member) * member).sum(-2)
    return _over_union(hit, truth + predicted - hit)


def _over_union(hit: Counts, union: Counts) -> Floats:
    """Divide int64 counts of one shape to float64; NaN where the union is empty."""
    iou: Floats = np.divide(hit, union, out=np.full(hit.shape, np.nan), where=union > 0)
    return iou


def mean_iou(matrix: Counts) -> Floats:
    """Mean of ``class_iou`` over the classes that occur, 0…1; (..., K, K) → (...)."""
    iou = class_iou(matrix)
    present = ~np.isnan(iou)
    total = np.where(present, iou, 0.0).sum(-1)
    result: Floats = np.asarray(total / np.maximum(present.sum(-1), 1))
    return result


def pixel_accuracy(matrix: Counts) -> float:
    """Share of labelled pixels that are right, 0…1."""
    return float(np.trace(matrix) / max(1, int(matrix.sum())))


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
