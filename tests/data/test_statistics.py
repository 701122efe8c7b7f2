"""Class shares and mean colour equal those of the pixels, and are kept until a file changes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from dabnet.data.camvid import CamVid
from dabnet.data.statistics import (
    CountsCache,
    SplitCounts,
    check_classes_occur,
    count_pixels,
)
from dabnet.data.toy_street import ToyStreet, write_camvid_tree
from dabnet.errors import InputError
from tests.support.fake_dataset import LABELS


def test_statistics_of_a_split_equal_those_of_its_pixels() -> None:
    dataset = ToyStreet("train", (48, 64), 4)
    items = [dataset[i] for i in range(4)]
    labels = np.stack([item.label for item in items])
    steps: list[int] = []
    statistics = count_pixels(dataset, range(4), lambda: steps.append(1))
    known = labels[labels != 11]
    share = [(known == k).mean() for k in range(11)]
    np.testing.assert_allclose(statistics.class_share, share, rtol=0, atol=1e-12)
    assert statistics.class_share.sum() == pytest.approx(1)
    mean = np.stack([item.image for item in items]).reshape(-1, 3).mean(0)
    np.testing.assert_allclose(statistics.mean_rgb, mean, atol=1e-4)
    assert len(steps) == 4
    halves = [count_pixels(dataset, part) for part in (range(0, 4, 2), range(1, 4, 2))]
    for name in ("class_pixels", "colour_sum"):
        summed = np.sum([getattr(half, name) for half in halves], axis=0)
        assert getattr(statistics, name) == tuple(summed.tolist())


def test_counts_are_kept_until_an_image_or_label_changes(tmp_path: Path) -> None:
    tree = write_camvid_tree(tmp_path / "data", (48, 64), {"train": 3, "val": 2})
    cache = CountsCache(tmp_path / "cache")
    dataset = CamVid(tree, "train")
    assert cache.load(dataset) is None
    counts = count_pixels(dataset, range(3))
    cache.store(dataset, counts)
    assert cache.load(CamVid(tree, "train")) == counts
    assert cache.load(CamVid(tree, "val")) is None  # another split
    for folder in ("train", "trainannot"):
        victim = sorted((tree / folder).iterdir())[1]
        before = victim.stat()
        os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        assert cache.load(CamVid(tree, "train")) is None
        os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert cache.load(CamVid(tree, "train")) == counts


@pytest.mark.parametrize("text", ["", "{", "[]", '{"class_pixels": [1, 2]}'])
def test_a_damaged_cache_is_counted_anew(tmp_path: Path, text: str) -> None:
    tree = write_camvid_tree(tmp_path / "data", (48, 64), {"train": 3, "val": 2})
    cache, dataset = CountsCache(tmp_path / "cache"), CamVid(tree, "train")
    cache.store(dataset, SplitCounts((1,) * 11, (1, 1, 1), 11))
    (file,) = (tmp_path / "cache" / "pixel-counts").iterdir()
    file.write_text(text)
    assert cache.load(dataset) is None


def test_drawn_scenes_are_not_kept(tmp_path: Path) -> None:
    cache, dataset = CountsCache(tmp_path), ToyStreet("train", (48, 64), 2)
    cache.store(dataset, SplitCounts((1,) * 11, (1, 1, 1), 11))
    assert cache.load(dataset) is None
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    tree = write_camvid_tree(tmp_path / "data", (48, 64), {"train": 3, "val": 2})
    (tmp_path / "file").write_text("no folder")
    cache, dataset = CountsCache(tmp_path / "file"), CamVid(tree, "train")
    cache.store(dataset, count_pixels(dataset, range(3)))
    assert cache.load(dataset) is None


def test_classes_that_never_occur_are_named_and_one_alone_is_refused() -> None:
    def counts(*pixels: int) -> SplitCounts:
        return SplitCounts(pixels, (0, 0, 0), 200)

    assert check_classes_occur(counts(1, 2, 3), LABELS, "train") == []
    assert check_classes_occur(counts(1, 0, 3), LABELS, "train") == ["b"]
    with pytest.raises(
        InputError, match="train split hold one class alone, 'a', and 50.0 % of the"
    ):
        check_classes_occur(counts(100, 0, 0), LABELS, "train")
    with pytest.raises(InputError, match="train split hold no class at all: every pixel is ignor"):
        check_classes_occur(counts(0, 0, 0), LABELS, "train")
