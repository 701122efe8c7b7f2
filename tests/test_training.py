"""Training: it learns, leaves what it promises, and continues exactly where it stopped."""

from __future__ import annotations

import csv
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import dabnet.training
from dabnet.checkpoint import load_checkpoint
from dabnet.cli import main
from dabnet.data.camvid import CamVid
from dabnet.data.statistics import measure
from dabnet.data.toy_street import ToyStreet, write_camvid_tree
from dabnet.errors import DabnetError, InputError
from dabnet.evaluation import confusion_per_image
from dabnet.losses import build_loss
from dabnet.metrics import mean_iou, pixel_accuracy
from dabnet.models.image_to_mask import ImageToMask
from dabnet.recipes import Recipe
from dabnet.training import train
from dabnet.training_log import COLUMNS
from dabnet.training_spec import TrainingResult, TrainingSpec

torch.set_num_threads(1)

RECIPE = Recipe(input_size=(32, 32), batch_size=2, max_epochs=3, lr=2e-3)
PER_EPOCH, TOTAL = 3, 9
LEFT = {"last.pth", "best.pth", "log.csv", "curves.png"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Seven images: one does not fill a batch and is dropped, another one each epoch.
    return write_camvid_tree(tmp_path_factory.mktemp("data"), (48, 64), {"train": 7, "val": 2})


def spec_for(output: Path, **changes: Any) -> TrainingSpec:
    spec = TrainingSpec(
        model="dabnet",
        recipe=RECIPE,
        output=output,
        device=torch.device("cpu"),
        workers=0,
        seed=5,
        eval_every=2,
    )
    return replace(spec, **changes)


def run(tree: Path, spec: TrainingSpec, split: str = "train") -> TrainingResult:
    return train(spec, CamVid(tree, split), CamVid(tree, "val"))


@pytest.fixture(scope="module")
def whole(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing stopped."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    result = run(tree, spec_for(output))
    assert result.finished
    assert result.last == output / "last.pth"
    return output


def log_of(output: Path) -> list[dict[str, str]]:
    with (output / "log.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def without_speed(output: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k != "images_per_s"} for row in log_of(output)]


def assert_same_run(output: Path, expected: Path) -> None:
    """Weights, optimiser, schedule, log and best checkpoint are equal, bit for bit."""
    assert without_speed(output) == without_speed(expected)
    for name in ("last.pth", "best.pth"):
        ours, theirs = load_checkpoint(output / name), load_checkpoint(expected / name)
        assert ours.epoch == theirs.epoch
        assert ours.metrics == theirs.metrics
        assert ours.state.keys() == theirs.state.keys()
        assert all(torch.equal(ours.state[k], theirs.state[k]) for k in theirs.state)
    ours, theirs = (load_checkpoint(folder / "last.pth") for folder in (output, expected))
    assert ours.training["schedule"] == theirs.training["schedule"]
    moments = theirs.training["optimiser"]["state"]
    for index, values in ours.training["optimiser"]["state"].items():
        assert all(torch.equal(values[k], moments[index][k]) for k in values)


class AtCall(nn.Module):
    """A criterion that does something once, in its n-th call."""

    def __init__(self, inner: nn.Module, call: int, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.left, self.act = inner, call, act

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.left -= 1
        loss: Tensor = self.inner(logits, labels)
        return self.act(loss) if self.left == 0 else loss


def in_call(monkeypatch: pytest.MonkeyPatch, call: int, act: Callable[[Tensor], Tensor]) -> None:
    def criterion(name: str, weights: Tensor, ignore: int) -> nn.Module:
        return AtCall(build_loss(name, weights, ignore), call, act)

    monkeypatch.setattr(dabnet.training, "build_loss", criterion)


def sends(number: int) -> Callable[[Tensor], Tensor]:
    def act(loss: Tensor) -> Tensor:
        os.kill(os.getpid(), number)
        return loss

    return act


def test_a_run_leaves_checkpoints_a_log_and_curves(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} == LEFT
    rows = log_of(whole)
    assert tuple(rows[0]) == COLUMNS
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [int(row["iteration"]) for row in rows] == [3, 6, 9]
    assert [row["val_miou"] != "" for row in rows] == [False, True, True]
    with Image.open(whole / "curves.png") as curves:
        curves.load()
        assert curves.format == "PNG"
        assert np.asarray(curves).std() > 0


def test_the_scores_are_those_of_the_checkpoints(whole: Path, tree: Path) -> None:
    val = CamVid(tree, "val")
    scores = [float(row["val_miou"]) for row in log_of(whole) if row["val_miou"]]
    best = load_checkpoint(whole / "best.pth")
    assert best.metrics["val_miou"] == max(scores)
    assert best.training == {}
    last = load_checkpoint(whole / "last.pth")
    assert last.metrics["val_miou"] == scores[-1]
    assert last.recipe == RECIPE.to_dict()
    mean_rgb = measure(CamVid(tree, "train")).mean_rgb
    for checkpoint in (best, last):
        assert checkpoint.preprocessing.mean_rgb == mean_rgb
        segmenter = ImageToMask(checkpoint.network(), checkpoint.preprocessing)

        def segment(image: Any, segmenter: nn.Module = segmenter) -> Any:
            with torch.no_grad():
                return segmenter(torch.from_numpy(image)[None])[0].numpy()

        matrix = confusion_per_image(segment, (val[i] for i in range(2)), 11).sum(0)
        assert float(mean_iou(matrix)) == checkpoint.metrics["val_miou"]
        assert pixel_accuracy(matrix) == checkpoint.metrics["val_pixel_accuracy"]


@pytest.mark.parametrize(
    ("iteration", "number"),
    [
        (1, signal.SIGINT),  # before anything was saved
        (PER_EPOCH + 2, signal.SIGINT),  # within an epoch
        (2 * PER_EPOCH, signal.SIGTERM),  # in the last step of an epoch that validates
    ],
)
def test_a_stopped_run_continues_exactly(
    tree: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    iteration: int,
    number: int,
) -> None:
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        in_call(patch, iteration, sends(number))
        result = run(tree, spec_for(tmp_path))
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not result.finished
    assert load_checkpoint(result.last).training["iteration"] == iteration

    torch.manual_seed(99)  # what the process did before must not matter
    result = run(tree, spec_for(tmp_path, resume=result.last, workers=1))
    assert result.finished
    assert_same_run(tmp_path, whole)


def test_a_signal_in_the_last_step_finishes_the_run(
    tree: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_call(monkeypatch, TOTAL, sends(signal.SIGINT))
    assert run(tree, spec_for(tmp_path)).finished
    assert_same_run(tmp_path, whole)
    before = (tmp_path / "last.pth").read_bytes()
    again = run(tree, spec_for(tmp_path, resume=tmp_path / "last.pth"))
    assert again.finished
    assert again.best_miou == load_checkpoint(tmp_path / "best.pth").metrics["val_miou"]
    assert (tmp_path / "last.pth").read_bytes() == before


def test_the_second_ctrl_c_stops_at_once(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(loss: Tensor) -> Tensor:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second signal must not come back")

    in_call(monkeypatch, 1, twice)
    # Python's own handler, which is not set where the tests run in the background.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tree, spec_for(tmp_path))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, handler)


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(
    tree: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        in_call(patch, PER_EPOCH + 2, lambda value: value * math.inf)
        message = rf"the loss is inf at iteration 5; .*--lr; the last good .*{tmp_path}/last.pth"
        with pytest.raises(DabnetError, match=message):
            run(tree, spec_for(tmp_path))
    good = load_checkpoint(tmp_path / "last.pth")
    assert good.training["iteration"] == PER_EPOCH
    assert all(tensor.isfinite().all() for tensor in good.state.values())
    # As good as if the fault had never been: it can be continued to the same end.
    assert run(tree, spec_for(tmp_path, resume=tmp_path / "last.pth")).finished
    assert_same_run(tmp_path, whole)


def test_a_bad_loss_before_the_first_checkpoint_promises_none(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_call(monkeypatch, 1, lambda value: value * math.nan)
    with pytest.raises(DabnetError, match="iteration 1; expected a finite loss; try a lower --lr$"):
        run(tree, spec_for(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "split", "message"),
    [
        ({"recipe": replace(RECIPE, lr=3e-3)}, "train", "--lr 0.003 .* started with 0.002"),
        ({"recipe": replace(RECIPE, max_epochs=9)}, "train", "--max-epochs 9 .* with 3"),
        ({"recipe": replace(RECIPE, input_size=(32, 64))}, "train", r"--input-size \[32, 64\]"),
        ({"seed": 6}, "train", "--seed 6 for a run that was started with 5"),
        ({}, "trainval", "--train-type trainval for a run that was started with train"),
    ],
)
def test_another_run_is_not_continued(
    tree: Path, whole: Path, tmp_path: Path, changes: dict[str, Any], split: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(tree, spec_for(tmp_path / "new", resume=whole / "last.pth", **changes), split)
    assert not (tmp_path / "new").exists()


def test_other_data_and_bare_weights_are_not_continued(
    tree: Path, whole: Path, tmp_path: Path
) -> None:
    spec = spec_for(tmp_path / "new", resume=whole / "last.pth")
    with pytest.raises(InputError, match="--dataset toy-street, but .* was trained on camvid"):
        train(spec, ToyStreet("train", (48, 64), 7), ToyStreet("val", (48, 64), 2))
    fewer = write_camvid_tree(tmp_path / "fewer", (48, 64), {"train": 6, "val": 2})
    with pytest.raises(InputError, match="6 training images for a run .* started with 7"):
        run(fewer, spec)
    with pytest.raises(InputError, match="best.pth: it holds weights only; expected the last.pth"):
        run(tree, replace(spec, resume=whole / "best.pth"))
    torch.save({"epoch": 1, "model": load_checkpoint(whole / "best.pth").state}, tmp_path / "p.pth")
    with pytest.raises(InputError, match="it holds weights only"):
        run(tree, replace(spec, resume=tmp_path / "p.pth"))
    assert not (tmp_path / "new").exists()


def test_a_bad_validation_label_is_met_before_the_first_epoch(tmp_path: Path) -> None:
    tree = write_camvid_tree(tmp_path / "data", (48, 64), {"train": 4, "val": 2})
    victim = sorted((tree / "valannot").iterdir())[1]
    Image.new("L", (64, 48), 77).save(victim)
    with pytest.raises(InputError, match=f"{victim.name}' holds the label value 77"):
        run(tree, spec_for(tmp_path / "new"))
    assert list((tmp_path / "new").iterdir()) == []


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Run dabnet-train in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["dabnet-train", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_ctrl_c_in_a_real_process_then_resume(
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = [
        *("--data_dir", tree, "--input_size", "32x32", "--batch-size", 2, "--max_epochs", 10),
        *("--seed", 3, "--train-type", "trainval", "--eval_every", 5),
    ]
    assert command(monkeypatch, *words, "--output", tmp_path / "a") == 0
    out = capfd.readouterr().out
    assert "9 training images, 2 validation images" in out
    assert "best validation mIoU" in out
    losses = [float(row["loss"]) for row in log_of(tmp_path / "a")]
    assert max(losses[-3:]) < 0.8 * losses[0]  # it learns

    stopped = tmp_path / "b"
    program = [sys.executable, "-c", "from dabnet.cli import main; main()"]
    process = subprocess.Popen(
        [*program, *map(str, words), "--output", str(stopped), "--num-workers", "1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while not (stopped / "log.csv").exists() and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert err.endswith(f"stopped; continue with: --resume {stopped / 'last.pth'}\n")
    assert 0 < load_checkpoint(stopped / "last.pth").training["iteration"] < 10 * 4

    # All that is not given is as the run was started: seed, split, recipe, validation.
    assert command(monkeypatch, "--resume", stopped / "last.pth", "--data-dir", tree) == 0
    assert_same_run(stopped, tmp_path / "a")


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
    shown = capfd.readouterr().out
    for line in ("optimizer: sgd", "lr: 0.045", "weight_decay: 0.0001", "loss: ohem"):
        assert line in shown
    trained = load_checkpoint(tmp_path / "run" / "best.pth")
    assert (trained.dataset, len(trained.labels.classes), trained.labels.ignore) == (
        "cityscapes",
        19,
        255,
    )
    assert len(trained.labels.categories) == 7
