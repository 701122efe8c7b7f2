"""Metrics against a loop over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dabnet.data.toy_street import ToyStreet
from dabnet.metrics import class_iou, confusion, mean_iou, pixel_accuracy

Uint8 = NDArray[np.uint8]


def by_pixel(prediction: Uint8, truth: Uint8, classes: int) -> tuple[list[float], float, float]:
    """IoU of each class, their mean, and pixel accuracy, by their definitions."""
    pairs = [(int(t), int(p)) for t, p in zip(truth.flat, prediction.flat, strict=True)]
    pairs = [pair for pair in pairs if pair[0] < classes]
    ious = []
    for k in range(classes):
        both = sum(t == k and p == k for t, p in pairs)
        either = sum(t == k or p == k for t, p in pairs)
        ious.append(both / either if either else math.nan)
    seen = [iou for iou in ious if not math.isnan(iou)]
    mean = sum(seen) / len(seen) if seen else 0.0
    return ious, mean, sum(t == p for t, p in pairs) / len(pairs) if pairs else 0.0


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(2, 20), st.integers(0, 2**32 - 1), st.sampled_from([11, 255]))
def test_against_a_loop_over_pixels(classes: int, seed: int, ignore: int) -> None:
    rng = np.random.default_rng(seed)
    occurring = rng.integers(1, classes + 1)  # some classes occur nowhere
    shape = tuple(rng.integers(0, 12, 2))
    truth = rng.integers(0, occurring, shape).astype(np.uint8)
    prediction = rng.integers(0, occurring, shape).astype(np.uint8)
    truth[rng.random(shape) < 0.2] = max(ignore, classes)
    matrix = confusion(prediction, truth, classes)
    ious, mean, accuracy = by_pixel(prediction, truth, classes)
    assert matrix.sum() == (truth < classes).sum()
    np.testing.assert_allclose(class_iou(matrix), ious, rtol=1e-12)
    assert float(mean_iou(matrix)) == pytest.approx(mean, rel=1e-12)
    assert pixel_accuracy(matrix) == pytest.approx(accuracy, rel=1e-12)


def test_rows_are_the_truth() -> None:
    truth = np.array([[0, 0, 1, 2]], np.uint8)
    prediction = np.array([[0, 1, 1, 0]], np.uint8)
    assert confusion(prediction, truth, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_a_perfect_prediction_scores_1_whatever_lies_under_ignored_pixels() -> None:
    label = ToyStreet("val", (48, 64), 1)[0].label
    prediction = label.copy()
    prediction[label == 11] = 3
    matrix = confusion(prediction, label, 11)
    assert float(mean_iou(matrix)) == 1.0
    assert pixel_accuracy(matrix) == 1.0
    absent = ~np.isin(np.arange(11), label)
    assert np.isnan(class_iou(matrix)).tolist() == absent.tolist()


def test_only_ignored_pixels_score_nothing_and_divide_by_nothing() -> None:
    with np.errstate(all="raise"):
        matrix = confusion(np.zeros((2, 3), np.uint8), np.full((2, 3), 11, np.uint8), 11)
        assert matrix.sum() == 0
        assert np.isnan(class_iou(matrix)).all()
        assert float(mean_iou(matrix)) == 0.0
        assert pixel_accuracy(matrix) == 0.0


def test_batch_dimensions_are_kept() -> None:
    rng = np.random.default_rng(0)
    matrices = rng.integers(0, 50, (4, 3, 5, 5))
    matrices[1, 2, 4] = matrices[1, 2, :, 4] = 0
    assert class_iou(matrices).shape == (4, 3, 5)
    for place in np.ndindex(4, 3):
        np.testing.assert_array_equal(class_iou(matrices)[place], class_iou(matrices[place]))
        assert mean_iou(matrices)[place] == mean_iou(matrices[place])
    assert np.isnan(class_iou(matrices)[1, 2, 4])


def test_what_cannot_be_counted_is_refused() -> None:
    truth = np.zeros((2, 3), np.uint8)
    with pytest.raises(ValueError, match="differ in shape"):
        confusion(np.zeros((3, 2), np.uint8), truth, 3)
    with pytest.raises(ValueError, match="class 3 among 3"):
        confusion(np.full((2, 3), 3, np.uint8), truth, 3)


def test_one_matrix_an_image_adds_up_to_that_of_the_split() -> None:
    dataset = ToyStreet("val", (48, 64), 3)
    items = [dataset[i] for i in range(3)]

    def segment(image: Uint8) -> Uint8:
        return (image[..., 0] % 11).astype(np.uint8)

    matrices = np.stack([confusion(segment(item.image), item.label, 11) for item in items])
    whole = confusion(
        np.concatenate([segment(i.image) for i in items]),
        np.concatenate([i.label for i in items]),
        11,
    )
    np.testing.assert_array_equal(matrices.sum(0), whole)
