"""A run that was stopped, killed or damaged continues exactly where it was."""

from __future__ import annotations

import os
import random
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
from torch import Tensor, nn

import dabnet.training.learner
from dabnet.checkpoint import load_checkpoint, save_checkpoint
from dabnet.data.camvid import CamVid
from dabnet.data.toy_street import ToyStreet, write_camvid_tree
from dabnet.errors import ArtifactError, InputError
from dabnet.models import NETWORKS, build_model
from dabnet.training.folder import newest_state
from dabnet.training.loop import train
from dabnet.training.spec import resumable_state
from tests.support import ROOT
from tests.support.training_runs import (
    PER_EPOCH,
    RECIPE,
    TOTAL,
    AtCall,
    assert_same_run,
    command,
    in_call,
    log_of,
    run,
    sends,
    spec_for,
)


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


@pytest.mark.parametrize(
    ("changes", "split", "message"),
    [
        ({"recipe": replace(RECIPE, lr=3e-3)}, "train", "--lr 0.003 .* started with 0.002"),
        ({"recipe": replace(RECIPE, max_epochs=9)}, "train", "--max-epochs 9 .* with 3"),
        ({"recipe": replace(RECIPE, input_size=(32, 64))}, "train", r"--input-size \[32, 64\]"),
        ({"dilations": (1,) * 9}, "train", "--dilations 1,1,.* with 2,2,2,4,4,8,8,16,16; expected"),
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


def test_the_published_dilations_by_name_are_those_of_a_run_without_them(
    tree: Path, whole: Path
) -> None:
    same = spec_for(whole, resume=whole / "last.pth", dilations=NETWORKS["dabnet"].dilations)
    resumable_state(
        load_checkpoint(whole / "last.pth"), same, CamVid(tree, "train"), CamVid(tree, "val")
    )


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


OF_A_PROCESS = (
    *("--input_size", "32x32", "--batch-size", "2", "--max_epochs", "10"),
    *("--seed", "3", "--train-type", "trainval", "--eval_every", "5", "--ema", "0.9"),
    *("--num-workers", "1"),
)


@pytest.fixture(scope="module")
def commanded(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the command that nothing stopped."""
    output = tmp_path_factory.mktemp("commanded") / "a"
    with pytest.MonkeyPatch.context() as patch:
        assert command(patch, "--data_dir", tree, *OF_A_PROCESS, "--output", output) == 0
    losses = [float(row["loss"]) for row in log_of(output)]
    assert max(losses[-3:]) < 0.8 * losses[0]  # it learns
    return output


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        *(
            pytest.param(number, marks=pytest.mark.slow)
            for number in (signal.SIGINT, signal.SIGTERM)
        ),
    ],
)
def test_a_real_process_is_stopped_and_continued(
    tree: Path, commanded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    stopped = tmp_path / "b"
    words = ["--data_dir", str(tree), *OF_A_PROCESS, "--output", str(stopped)]
    process = subprocess.Popen(
        [sys.executable, "-m", "dabnet.cli", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while not (stopped / "log.csv").exists() and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, number)  # as a terminal does: to the workers too
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "9 training images, 2 validation images" in out
    if number != signal.SIGKILL:
        assert process.returncode == 130, err
        assert "Traceback" not in err
        assert err.endswith(f"stopped; continue with: --resume {stopped / 'last.pth'}\n")
        assert 0 < load_checkpoint(stopped / "last.pth").training["iteration"] < 10 * 4
    else:
        assert process.returncode == -signal.SIGKILL
    # All that is not given is as the run was started: seed, split, recipe, validation.
    assert command(monkeypatch, "--resume", stopped, "--data-dir", tree) == 0
    assert_same_run(stopped, commanded)


class Noisy(nn.Module):
    """A criterion that draws from every generator there is."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        total, weight = self.inner(logits, labels)
        noise = random.random() + np.random.rand() + float(torch.rand(()))  # noqa: NPY002
        return total * (1 + noise), weight


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"amp": "bf16", "ema": 0.8}, marks=pytest.mark.slow),
        {"amp": "fp16"},
        {"optimizer": "sgd", "loss": "ohem", "ema": 0.5},
    ],
)
def test_every_generator_scaler_and_average_goes_on_exactly(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    built = dabnet.training.learner.build_loss
    monkeypatch.setattr(dabnet.training.learner, "build_loss", lambda *a: Noisy(built(*a)))
    recipe = replace(RECIPE, max_epochs=2, **changes)
    spec = spec_for(tmp_path / "whole", recipe=recipe, data_path="device")
    assert run(tree, spec).finished
    spec = replace(spec, output=tmp_path / "parts")
    with monkeypatch.context() as patch:
        patch.setattr(
            dabnet.training.learner,
            "build_loss",
            lambda *a: Noisy(AtCall(built(*a), 4, sends(signal.SIGINT))),
        )
        last = run(tree, spec).last
    for generator in (random.seed, np.random.seed, torch.manual_seed):
        generator(99)
    # The data path of the run is taken up again.
    assert run(tree, replace(spec, resume=last, data_path="auto")).finished
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5000])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)


def test_a_damaged_last_state_costs_one_save(
    tree: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        in_call(patch, 5, sends(signal.SIGINT))
        run(tree, spec_for(tmp_path))
    before = (tmp_path / "previous.pth").read_bytes()
    sound = (tmp_path / "last.pth").read_bytes()
    damages: tuple[Callable[[Path], None], ...] = (cut, flip, Path.unlink)
    for damage in damages:
        (tmp_path / "last.pth").write_bytes(sound)
        damage(tmp_path / "last.pth")
        found, warning = newest_state(tmp_path)
        assert found == tmp_path / "previous.pth"
        assert "last.pth" in warning
        assert load_checkpoint(found).training["iteration"] == 4
        assert (tmp_path / "previous.pth").read_bytes() == before
    # Whatever the damage was, it is the same state that goes on: here once, beside a damaged file.
    (tmp_path / "last.pth").write_bytes(sound)
    flip(tmp_path / "last.pth")
    assert command(monkeypatch, "--resume", tmp_path, "--data-dir", tree) == 0
    assert f"continuing from '{found}'" in capfd.readouterr().err
    assert_same_run(tmp_path, whole)
    assert (tmp_path / "previous.pth").read_bytes() != before


def test_the_state_that_was_continued_is_kept_at_the_first_save(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for resume, steps, reached in ((None, 2, 2), (tmp_path / "last.pth", 1, 3)):
        with monkeypatch.context() as patch:
            in_call(patch, steps, sends(signal.SIGINT))
            run(tree, spec_for(tmp_path, resume=resume))
        assert load_checkpoint(tmp_path / "last.pth").training["iteration"] == reached
        assert load_checkpoint(tmp_path / "previous.pth").training["iteration"] == reached - 1


def test_two_damaged_states_are_not_continued(
    whole: Path, tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("last.pth", "previous.pth"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
        flip(tmp_path / name)
    with pytest.raises(ArtifactError, match=r"last\.pth' is damaged \(the check sum of"):
        newest_state(tmp_path / "last.pth")
    assert command(monkeypatch, "--resume", tmp_path, "--data-dir", tree) == 2
    with pytest.raises(InputError, match="no file at .*nowhere"):
        newest_state(tmp_path / "nowhere.pth")
    torch.save({"state_dict": build_model("enet", 3).state_dict()}, tmp_path / "public.pth")
    with pytest.raises(InputError, match="holds no state of a segmentation run; .* with --init"):
        newest_state(tmp_path / "public.pth")


def test_a_run_of_another_version_is_not_continued(tree: Path, whole: Path, tmp_path: Path) -> None:
    last = load_checkpoint(whole / "last.pth")
    save_checkpoint(replace(last, training=last.training | {"version": 1}), tmp_path / "last.pth")
    with pytest.raises(InputError, match="holds a state of a run of version 1; expected version 2"):
        run(tree, spec_for(tmp_path, resume=tmp_path / "last.pth"))
