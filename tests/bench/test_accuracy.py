"""Scores of every runner, against counting by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.accuracy import assess
from dabnet.data.dataset import LabelledImage
from dabnet.data.labels import LabelSet
from dabnet.preprocessing import Preprocessing
from dabnet.runtime.runner import RunnerInfo, Uint8Array, check_images

CLASSES = 3
IGNORE = 255
LABELS = LabelSet(
    ("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), IGNORE, Preprocessing((0.0, 0.0, 0.0))
)


class FakeDataset:
    """Random images of several sizes whose labels have ignored pixels."""

    name, split, labels = "fake", "val", LABELS

    def __init__(self, sizes: Sequence[tuple[int, int]]) -> None:
        random = np.random.default_rng(4)
        self.items = []
        self.read: list[int] = []
        for number, (height, width) in enumerate(sizes):
            label = random.integers(0, CLASSES, (height, width)).astype(np.uint8)
            label[random.random(label.shape) < 0.1] = IGNORE
            image = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
            self.items.append(LabelledImage(f"image {number}", image, label))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> LabelledImage:
        self.read.append(index)
        return self.items[index]


class FakeRunner:
    """Its mask is a function of the image alone."""

    def __init__(self, rule: Callable[[Any], Any], size: tuple[int, int], batch: int = 1) -> None:
        self._rule = rule
        self._shape = (batch, *size, 3)

    @property
    def info(self) -> RunnerInfo:
        return RunnerInfo("fake", "", "none", "none", self._shape)

    def infer(self, images: Uint8Array) -> Uint8Array:
        masks: Uint8Array = self._rule(check_images(images, self._shape)).astype(np.uint8)
        return masks

    def stage(self, batches: Sequence[Uint8Array]) -> None:
        raise AssertionError("accuracy is of the host scope")

    launch = synchronize = close = stage  # type: ignore[assignment]


def by_red(images: Any) -> Any:
    return images[..., 0] % CLASSES


def by_green(images: Any) -> Any:
    return images[..., 1].astype(int) * CLASSES // 256


def nearly_by_red(images: Any) -> Any:
    """``by_red``, but wrong where blue is high."""
    return np.where(images[..., 2] > 200, 0, by_red(images))


def counted(mask: Any, label: Any) -> Any:
    matrix = np.zeros((CLASSES, CLASSES), int)
    for truth, prediction in zip(label.ravel().tolist(), mask.ravel().tolist(), strict=True):
        if truth != IGNORE:
            matrix[truth, prediction] += 1
    return matrix


@pytest.mark.parametrize("batch", [1, 3])
def test_confusion_and_agreement_are_those_counted_by_hand(batch: int) -> None:
    size = (8, 12)
    dataset = FakeDataset([size] * 5)
    rules = {"first": by_red, "second": by_green, "third": nearly_by_red}
    runners = {name: FakeRunner(rule, size, batch) for name, rule in rules.items()}
    steps: list[int] = []
    compared = {"first": "first", "second": "third", "third": "first"}
    scores = assess(runners, compared, dataset, size, 4, lambda: steps.append(len(dataset.read)))
    assert list(scores) == ["first", "second", "third"]
    assert dataset.read == [0, 1, 2, 3]  # each image is read once for all runners
    assert steps == [1, 2, 3, 4]
    for name, rule in rules.items():
        assert scores[name].per_image.shape == (4, CLASSES, CLASSES)
        agreement = scores[name].agreement
        assert agreement is not None and agreement.shape == (4,)
        for number in range(4):
            item = dataset.items[number]
            assert np.array_equal(
                scores[name].per_image[number], counted(rule(item.image), item.label)
            )
            # Agreement counts every pixel: those that the truth ignores too.
            same = rule(item.image) == rules[compared[name]](item.image)
            assert agreement[number] == pytest.approx(np.count_nonzero(same) / same.size)
    first, third = scores["first"].agreement, scores["third"].agreement
    assert first is not None and first.tolist() == [1.0] * 4
    assert third is not None and 0.5 < third.min() < 1.0


def test_images_and_labels_are_resized_to_the_timed_size() -> None:
    size = (8, 16)
    dataset = FakeDataset([(24, 32), (8, 16), (10, 50)])
    scores = assess({"a": FakeRunner(by_green, size)}, {}, dataset, size, 3)
    for number, item in enumerate(dataset.items):
        image = np.asarray(Image.fromarray(item.image).resize((16, 8), Image.Resampling.BILINEAR))
        label = np.asarray(Image.fromarray(item.label).resize((16, 8), Image.Resampling.NEAREST))
        assert np.array_equal(scores["a"].per_image[number], counted(by_green(image), label))


def test_compared_with_nothing_there_is_no_agreement() -> None:
    dataset = FakeDataset([(8, 8)] * 2)
    scores = assess({"a": FakeRunner(by_red, (8, 8))}, {}, dataset, (8, 8), 100)
    assert scores["a"].agreement is None
    assert len(scores["a"].per_image) == 2  # a split has no more images than it has
