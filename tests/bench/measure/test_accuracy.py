"""Scores of every runner, against counting by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.measure import accuracy
from bench.measure.accuracy import Scored, Scorer, mask_path
from dabnet.data.images import SizedImages
from dabnet.runtime.runner import RunnerInfo, Uint8Array, check_images
from tests.support.fake_dataset import CLASSES, IGNORE, FakeDataset
from tests.support.seeded_checkpoint import no_bar


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


@dataclass(frozen=True, slots=True)
class Run:
    """Scores in this process, as a candidate's own process does."""

    dataset: FakeDataset
    size: tuple[int, int]
    folder: Path
    batch: int = 1

    def score(
        self,
        name: str,
        scored: FakeRunner,
        timed: FakeRunner | None = None,
        reference: str | None = None,
        kept: Sequence[int] = (),
    ) -> Scored:
        images = SizedImages.first(self.dataset, self.size)
        recipe: Any = SimpleNamespace(
            scored=lambda: scored, opened=lambda: timed, exact={} if timed is None else {"a": 1}
        )
        masks = self.folder / name
        masks.mkdir()
        other = self.folder / reference if reference else None
        return Scorer(recipe, images, self.batch, masks, kept, other).score()


@pytest.fixture(autouse=True)
def without_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "remote_progress", no_bar)


@pytest.mark.parametrize("batch", [1, 3])
def test_confusion_and_agreement_are_those_counted_by_hand(tmp_path: Path, batch: int) -> None:
    size = (8, 12)
    dataset = FakeDataset([size] * 5)
    run = Run(dataset, size, tmp_path, batch)
    first = run.score("first", FakeRunner(by_red, size, batch), kept=range(5))
    other = FakeRunner(nearly_by_red, size, batch)
    third = run.score("third", other, reference="first", kept=[3])
    assert first.names == tuple(f"image {number}" for number in range(5))
    assert first.native is None and first.agreement is None and first.timed is None
    assert third.per_image.shape == (5, CLASSES, CLASSES) and third.agreement is not None
    for number, item in enumerate(dataset.items):
        for found, rule in ((first, by_red), (third, nearly_by_red)):
            assert np.array_equal(found.per_image[number], counted(rule(item.image), item.label))
        # Agreement counts every pixel: those that the truth ignores too.
        same = by_red(item.image) == nearly_by_red(item.image)
        assert third.agreement[number] == pytest.approx(np.count_nonzero(same) / same.size)
    assert 0.5 < third.agreement.min() < 1.0
    assert [path.name for path in (tmp_path / "third").iterdir()] == ["00003.npy"]
    kept = np.load(mask_path(tmp_path / "third", 3))
    assert np.array_equal(kept, nearly_by_red(dataset.items[3].image))


def test_what_is_timed_is_compared_with_what_is_scored(tmp_path: Path) -> None:
    size = (8, 12)
    dataset = FakeDataset([size] * 3)
    run = Run(dataset, size, tmp_path)
    found = run.score("a", FakeRunner(by_red, size), timed=FakeRunner(nearly_by_red, size))
    assert found.timed is not None and found.timed_agreement is not None
    for number, item in enumerate(dataset.items):
        red, nearly = by_red(item.image), nearly_by_red(item.image)
        assert np.array_equal(found.per_image[number], counted(red, item.label))
        assert np.array_equal(found.timed[number], counted(nearly, item.label))
        assert found.timed_agreement[number] == pytest.approx((red == nearly).mean())


def test_images_and_labels_are_resized_and_the_mask_enlarged(tmp_path: Path) -> None:
    size = (8, 16)
    dataset = FakeDataset([(24, 32), (8, 16), (10, 50)])
    found = Run(dataset, size, tmp_path).score("a", FakeRunner(by_green, size))
    assert found.native is not None
    for number, item in enumerate(dataset.items):
        image = np.asarray(Image.fromarray(item.image).resize((16, 8), Image.Resampling.BILINEAR))
        label = np.asarray(Image.fromarray(item.label).resize((16, 8), Image.Resampling.NEAREST))
        mask = by_green(image).astype(np.uint8)
        assert np.array_equal(found.per_image[number], counted(mask, label))
        height, width = item.label.shape
        enlarged = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
        assert np.array_equal(found.native[number], counted(np.asarray(enlarged), item.label))


def test_scores_are_kept_for_a_run_that_goes_on(tmp_path: Path) -> None:
    size = (8, 12)
    run = Run(FakeDataset([size] * 3), size, tmp_path)
    found = run.score("a", FakeRunner(by_red, size), timed=FakeRunner(nearly_by_red, size))
    found.save(tmp_path / "scores.npz")
    again = Scored.load(tmp_path / "scores.npz")
    assert (again.names, again.arithmetic) == (found.names, found.arithmetic)
    for name in ("per_image", "native", "agreement", "timed_agreement", "timed"):
        assert np.array_equal(getattr(again, name), getattr(found, name)), name
