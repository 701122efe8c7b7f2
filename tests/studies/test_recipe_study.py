"""The study of recipes: a run per recipe, fold and number of images, and what it prints of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.study_runs import run_study

SIZE = (32, 32)


def camvid(folder: Path) -> Path:
    """Write drawn images of two drives, four of each."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(8):
        name = f"{'AB'[number % 2]}_{number}"
        image, label = (folder / f"{name}{end}.png" for end in ("", "_label"))
        Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8)).save(image)
        Image.fromarray(rng.integers(0, 11, SIZE, np.uint8)).save(label)
        lines.append(f"{image.name} {label.name}")
    for split in ("train", "val"):
        (folder / f"camvid_{split}_list.txt").write_text("\n".join(lines))
    return folder


@pytest.mark.slow
def test_runs_are_kept_and_each_number_of_images_has_its_reference(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data, runs = camvid(tmp_path / "data"), tmp_path / "runs"
    names = ["--recipe", "paper", "--recipe", "light", "--images", 4, "--images", 8]
    train = ["--input-size", "32x32", "--batch-size", 2, "--eval-every", 1000, "--no-tensorboard"]
    words = ["--data-dir", data, "--output", runs, "--json", tmp_path / "a.json", *names, "--"]
    mistyped = run_study("recipes", *words, *train, "--ampp", "bf16", cwd=tmp_path)
    assert mistyped.returncode and not (runs / "options.json").exists()
    done = run_study("recipes", *words, *train, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["folds"] == ["A", "B"]
    found = [(own["recipe"], own["images"]) for own in record["scores"]]
    assert found == [("paper", 4), ("light", 4), ("paper", 8), ("light", 8)]
    times = {}
    for own in record["scores"]:
        for fold, score in zip(record["folds"], own["miou"], strict=True):
            log = runs / f"{own['recipe']}-{fold}-{own['images']}" / "log.csv"
            last = list(csv.DictReader(log.read_text().splitlines()))[-1]
            assert float(last["val_miou"]) == score and 0 <= score <= 1
            assert 2 * int(last["iteration"]) == own["images"]
            times[log] = log.stat().st_mtime_ns
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    scores = [own["miou"] for own in record["scores"]]
    for row, own, reference in zip(rows, scores, [scores[0]] * 2 + [scores[2]] * 2, strict=True):
        assert row[2:5] == [f"{100 * s:.1f}" for s in (*own, sum(own) / 2)]
        gains = [100 * (a - b) for a, b in zip(own, reference, strict=True)]
        expected = f"{sum(gains) / 2:+.1f} [{min(gains):+.1f}, {max(gains):+.1f}] |"
        assert row[5] == ("reference |" if own is reference else expected)
    # Other options would stand in one table with those of the runs that are there.
    others: tuple[list[object], ...] = ([*train, "--batch-size", 4], [])
    for other in (*others, ["--fold", "A"], ["--train_type=trainval"], ["--split", "test"]):
        refused = run_study("recipes", *words, *other, cwd=tmp_path)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    kept = (runs / "options.json").read_text()
    (runs / "options.json").write_text("{")
    damaged = run_study("recipes", *words, *train, cwd=tmp_path)
    assert (damaged.returncode, damaged.stderr.count("\n")) == (2, 1), damaged.stderr
    (runs / "options.json").write_text(kept)
    # A study that is finished trains nothing again.
    again = run_study("recipes", *words, *train, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[:6] == done.stdout.splitlines()[:6]
    assert {log: log.stat().st_mtime_ns for log in times} == times


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    done = run_study("recipes", "--data-dir", tmp_path, "--output", tmp_path / "x", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: ") and "camvid_SPLIT_list.txt" in done.stderr
    assert not (tmp_path / "x").exists()
