"""Segmentation metrics as pure functions of a confusion matrix.

A confusion matrix is int64 (K, K): rows are the truth, columns the prediction, counts in pixels.
Pixels whose truth is the ignore value are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def difference_counts(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Counts:
    """Number of pixels of each absolute difference of two arrays of one shape, int64 (256,)."""
    apart = np.where(a > b, a - b, b - a)
    return np.bincount(apart.ravel(), minlength=256)


def class_iou(matrix: Counts) -> Floats:
    """Intersection over union of each class, 0…1; NaN for a class in neither truth nor prediction.

    Accepts (..., K, K) and returns (..., K).
    """
    return _over_union(*hits_and_unions(matrix))


def hits_and_unions(matrix: Counts) -> tuple[Counts, Counts]:
    """Pixels of intersection and of union of each class: (..., K, K) → (..., K) twice."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    return hits, matrix.sum(-1) + matrix.sum(-2) - hits


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


def _over_union(hits: NDArray[Any], unions: NDArray[Any]) -> Floats:
    """Divide counts of one shape; NaN where the union is empty."""
    iou: Floats = np.divide(hits, unions, out=np.full(hits.shape, np.nan), where=unions > 0)
    return iou


def mean_iou(matrix: Counts) -> Floats:
    """Mean of ``class_iou`` over the classes that occur, 0…1; (..., K, K) → (...)."""
    return mean_of_classes(*hits_and_unions(matrix))


def mean_of_classes(hits: NDArray[Any], unions: NDArray[Any]) -> Floats:
    """Mean IoU over the classes whose union is not empty; (..., K) → (...)."""
    present = unions > 0
    iou = np.divide(hits, unions, out=np.zeros(hits.shape), where=present)
    return np.asarray(iou.sum(-1) / np.maximum(present.sum(-1), 1))


def pixel_accuracy(matrix: Counts) -> float:
    """Share of labelled pixels that are right, 0…1."""
    return float(np.trace(matrix) / max(1, int(matrix.sum())))
