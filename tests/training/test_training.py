"""Training: it learns, and leaves what it promises."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dabnet.checkpoint import load_checkpoint
from dabnet.data.camvid import CamVid
from dabnet.data.statistics import count_pixels
from dabnet.data.toy_street import ToyStreet
from dabnet.errors import MissingPackage
from dabnet.metrics import mean_iou, pixel_accuracy
from dabnet.training.log import COLUMNS
from tests.support.training_runs import (
    RECIPE,
    command,
    confusion_of,
    in_call,
    log_of,
    run,
    sends,
    spec_for,
)

LEFT = {"last.pth", "previous.pth", "best.pth", "log.csv", "curves.png", "predictions.png"}


def test_a_run_leaves_checkpoints_a_log_and_curves(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} == LEFT
    rows = log_of(whole)
    assert tuple(rows[0]) == COLUMNS
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [int(row["iteration"]) for row in rows] == [3, 6, 9]
    assert [row["val_miou"] != "" for row in rows] == [False, True, True]
    for name in ("curves.png", "predictions.png"):
        with Image.open(whole / name) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert np.asarray(picture).std() > 0


def test_the_scores_are_those_of_the_checkpoints(whole: Path, tree: Path) -> None:
    scores = [float(row["val_miou"]) for row in log_of(whole) if row["val_miou"]]
    best = load_checkpoint(whole / "best.pth")
    assert best.metrics["val_miou"] == max(scores)
    assert best.training == {}
    last = load_checkpoint(whole / "last.pth")
    assert last.metrics["val_miou"] == scores[-1]
    assert last.recipe == RECIPE.to_dict()
    mean_rgb = count_pixels(CamVid(tree, "train"), range(7)).mean_rgb
    for checkpoint in (best, last):
        assert checkpoint.preprocessing.mean_rgb == mean_rgb
        matrix = confusion_of(checkpoint.network(), checkpoint, tree)
        assert float(mean_iou(matrix)) == checkpoint.metrics["val_miou"]
        assert pixel_accuracy(matrix) == checkpoint.metrics["val_pixel_accuracy"]


def test_tensorboard_shows_each_iteration_once_and_every_class(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with monkeypatch.context() as patch:
        in_call(patch, 5, sends(signal.SIGINT))
        stopped = run(tree, spec_for(tmp_path, tensorboard=True))
    # What TensorBoard holds beyond the state that is continued is dropped.
    run(tree, spec_for(tmp_path, tensorboard=True, resume=tmp_path / "previous.pth"))
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={})
    events.Reload()
    assert not stopped.finished
    losses = events.Scalars("train/loss")
    assert [event.step for event in losses] == list(range(1, 10))
    rows = log_of(tmp_path)
    for epoch, row in enumerate(rows):
        mean = np.mean([event.value for event in losses[3 * epoch : 3 * epoch + 3]])
        assert mean == pytest.approx(float(row["loss"]), rel=1e-5)
    last = load_checkpoint(tmp_path / "last.pth")
    score = events.Scalars("val/miou")[-1]
    assert (score.step, score.value) == (9, pytest.approx(last.metrics["val_miou"], rel=1e-6))
    scored = {name for name in last.labels.classes if f"val_iou/{name}" in events.Tags()["scalars"]}
    assert {"road", "sky"} <= scored
    (picture,) = (event for event in events.Images("predictions") if event.step == 9)
    with Image.open(tmp_path / "predictions.png") as shown:
        assert (picture.width, picture.height) == shown.size


def test_tensorboard_asked_for_but_not_installed_names_the_extra(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingPackage, match=r"pip install '\.\[tensorboard\]'"):
        run(tree, spec_for(tmp_path / "new", tensorboard=True))
    assert (
        command(
            monkeypatch,
            "--data-dir",
            tree,
            "--input-size",
            "32x32",
            "--batch-size",
            2,
            "--max-epochs",
            1,
            "--output",
            tmp_path / "a",
        )
        == 0
    )
    assert not (tmp_path / "a" / "tensorboard").exists()


def test_sgd_with_hard_examples_learns(tree: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, optimizer="sgd", lr=0.05, weight_decay=1e-4, loss="ohem")
    whole = replace(spec_for(tmp_path / "whole"), recipe=replace(recipe, max_epochs=6))
    run(tree, whole)
    losses = [float(row["loss"]) for row in log_of(tmp_path / "whole")]
    assert losses[-1] < losses[0]
    assert load_checkpoint(tmp_path / "whole" / "last.pth").recipe["loss"] == "ohem"


def cityscapes_tree(folder: Path) -> Path:
    """Drawn scenes as a Cityscapes tree of 3 train and 1 val images, in 11 of its 19 classes."""
    for split, count in (("train", 3), ("val", 1)):
        scenes = ToyStreet(split, (64, 128), length=count)
        for index in range(count):
            stem = f"aachen_{index:06d}_000019"
            image = folder / "leftImg8bit" / split / "aachen" / f"{stem}_leftImg8bit.png"
            label = folder / "gtFine" / split / "aachen" / f"{stem}_gtFine_labelTrainIds.png"
            for path in (image, label):
                path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scenes[index].image).save(image)
            ids = np.where(scenes[index].label == 11, 255, scenes[index].label).astype(np.uint8)
            Image.fromarray(ids).save(label)
    return folder


def test_cityscapes_trains_by_its_own_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tree = cityscapes_tree(tmp_path / "cityscapes")
    words = ["--dataset", "cityscapes", "--data-dir", tree, "--output", tmp_path / "run"]
    small = ["--input-size", "32x64", "--batch-size", "2", "--max-epochs", "1"]
    assert command(monkeypatch, *words, *small) == 0
    shown, told = capfd.readouterr()
    assert "by category, %:" in shown
    told_of = "no label of the train split holds the class "
    absent = [line.removeprefix(told_of) for line in told.splitlines() if line.startswith(told_of)]
    assert {"train", "motorcycle", "bicycle"} <= {*absent}
    assert "road" not in absent
    for line in ("optimizer: sgd", "lr: 0.045", "weight_decay: 0.0001", "loss: ohem"):
        assert line in shown
    trained = load_checkpoint(tmp_path / "run" / "best.pth")
    assert (trained.dataset, len(trained.labels.classes), trained.labels.ignore) == (
        "cityscapes",
        19,
        255,
    )
    assert len(trained.labels.categories) == 7


def test_classes_that_no_label_holds_are_told_before_the_first_iteration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tree = cityscapes_tree(tmp_path / "cityscapes")
    words = ["--dataset", "cityscapes", "--data-dir", tree, "--output", tmp_path / "runs" / "new"]
    words += ["--input-size", "32x64", "--max-epochs", "1", "--cache-dir", tmp_path / "cache"]
    for split, message in (
        ("val", "no pixel of the validation split has a class: there is no mIoU of it; expected"),
        ("train", "the labels of the train split hold no class at all"),
    ):
        for path in (tree / "gtFine" / split / "aachen").iterdir():
            Image.new("L", (128, 64), 255).save(path)
        assert command(monkeypatch, *words) == 2
        shown = capfd.readouterr().err
        assert shown.startswith(f"error: {message}")
        assert shown.count("\n") == 1
        assert not (tmp_path / "runs").exists()
