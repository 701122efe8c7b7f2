"""Fine-tuning with fake quantisation: the start, the run, what it leaves, and what is refused."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dabnet.checkpoint import load_checkpoint, save_checkpoint
from dabnet.data.toy_street import write_camvid_tree
from dabnet.errors import ArtifactError, InputError
from dabnet.metrics import mean_iou
from dabnet.preprocessing import Preprocessing
from dabnet.training.qat import fake_quantized
from tests.support.tiny_network import register
from tests.support.training_runs import (
    RECIPE,
    assert_same_run,
    command,
    confusion_of,
    in_call,
    log_of,
    run,
    sends,
    spec_for,
)

QAT_RECIPE = replace(RECIPE, lr=1e-4, max_epochs=2)


@pytest.fixture(scope="module")
def start(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float checkpoint whose preprocessing is not what the data set would give."""
    path = tmp_path_factory.mktemp("start") / "start.pth"
    best = replace(
        load_checkpoint(whole / "best.pth"), preprocessing=Preprocessing((90.0, 100.0, 110.0))
    )
    save_checkpoint(best, path)
    return path


@pytest.fixture(scope="module")
def tuned(start: Path, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "tuned"
    assert run(tree, spec_for(output, recipe=QAT_RECIPE, qat=start, eval_every=1)).finished
    return output


def test_a_run_leaves_float_weights_with_ranges(start: Path, tuned: Path) -> None:
    before = load_checkpoint(start)
    last, best = (load_checkpoint(tuned / name) for name in ("last.pth", "best.pth"))
    assert last.preprocessing == before.preprocessing
    assert last.state.keys() == before.state.keys()
    assert last.activation_ranges == best.activation_ranges
    assert len(last.activation_ranges) == 60
    ranges = last.activation_ranges
    for name in ranges:
        assert ranges[name] == ranges[name.replace(".ddconv3x1.", ".dconv3x1.")]

    changed = {n for n, t in last.state.items() if not torch.equal(t, before.state[n])}
    frozen = {n for n in last.state if n.endswith(("running_mean", "running_var", "tracked"))}
    assert changed == last.state.keys() - frozen
    largest = max(float((last.state[n] - before.state[n]).abs().max()) for n in changed)
    assert largest < 2 * 6 * QAT_RECIPE.lr  # six steps of Adam


def test_its_scores_are_those_of_the_int8_network(start: Path, tuned: Path, tree: Path) -> None:
    """The first is that of the start, rounded, and the last that of what was saved, rounded."""
    rows = log_of(tuned)
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert rows[0]["loss"] == rows[0]["lr"] == ""
    scores = [float(row["val_miou"]) for row in rows]
    last = load_checkpoint(tuned / "last.pth")
    for checkpoint, score in ((load_checkpoint(start), scores[0]), (last, scores[-1])):
        network = fake_quantized(checkpoint.network(), last.activation_ranges)
        found = float(mean_iou(confusion_of(network, last, tree)))
        assert found == pytest.approx(score, abs=1e-9)
    assert load_checkpoint(tuned / "best.pth").metrics["val_miou"] == max(scores)


def test_the_best_state_may_be_the_start(start: Path, tree: Path, tmp_path: Path) -> None:
    # A rate that destroys what was learned.
    recipe = replace(QAT_RECIPE, optimizer="sgd", lr=5.0, max_epochs=1)
    run(tree, spec_for(tmp_path, recipe=recipe, qat=start))
    best = load_checkpoint(tmp_path / "best.pth")
    rows = log_of(tmp_path)
    assert float(rows[0]["val_miou"]) > float(rows[1]["val_miou"])
    assert best.metrics["val_miou"] == float(rows[0]["val_miou"])
    assert all(torch.equal(t, best.state[n]) for n, t in load_checkpoint(start).state.items())
    assert best.activation_ranges


@pytest.mark.parametrize(
    ("changes", "iteration"),
    [
        ({}, 1),
        pytest.param({"amp": "fp16", "optimizer": "sgd", "ema": 0.5}, 4, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on_exactly(
    start: Path,
    tuned: Path,
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    iteration: int,
) -> None:
    whole, recipe = tmp_path / "whole", replace(QAT_RECIPE, **changes)
    spec = spec_for(whole, recipe=recipe, qat=start, eval_every=1)
    if changes:
        assert run(tree, spec).finished
    else:
        whole = tuned
    spec = replace(spec, output=tmp_path / "parts")
    with monkeypatch.context() as patch:
        in_call(patch, iteration, sends(signal.SIGINT))
        assert not run(tree, spec).finished
    # As the command does: all that is not given is as the run was started.
    assert command(monkeypatch, "--resume", spec.output, "--data-dir", tree) == 0
    assert_same_run(spec.output, whole)
    ours, theirs = (load_checkpoint(folder / "last.pth") for folder in (spec.output, whole))
    assert ours.activation_ranges == theirs.activation_ranges


def test_a_run_that_was_stopped_before_its_first_step_scores_its_start_once(
    start: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_for(tmp_path, recipe=QAT_RECIPE, qat=start, eval_every=1)
    with monkeypatch.context() as patch:

        def dies(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr("dabnet.training.learner.Learner.step", dies)
        with pytest.raises(KeyboardInterrupt):
            run(tree, spec)
    assert load_checkpoint(tmp_path / "last.pth").training["iteration"] == 0
    assert run(tree, replace(spec, qat=None, resume=tmp_path / "last.pth")).finished
    assert [row["epoch"] for row in log_of(tmp_path)] == ["0", "1", "2"]


def test_the_recipe_is_the_data_sets_with_fewer_epochs_and_a_lower_rate(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = write_camvid_tree(tmp_path / "data", (48, 64), {"train": 2, "val": 1})
    words = ["--qat", start, "--data-dir", tree, "--input-size", "32x32", "--batch-size", "2"]
    words += ["--eval-every", "10"]
    assert command(monkeypatch, *words, "--output", tmp_path / "a") == 0
    said = capsys.readouterr().out
    assert f"fine-tunes {start} with fake quantisation to int8" in said
    assert "dabnet on camvid train" in said  # which was not given
    recipe = load_checkpoint(tmp_path / "a" / "best.pth").recipe
    assert (recipe["lr"], recipe["max_epochs"], recipe["weight_decay"]) == (1e-5, 5, 2e-4)
    words += ["--lr", "3e-4", "--max-epochs", "1", "--ema", "0.5"]
    assert command(monkeypatch, *words, "--output", tmp_path / "b") == 0
    recipe = load_checkpoint(tmp_path / "b" / "best.pth").recipe
    assert (recipe["lr"], recipe["max_epochs"], recipe["ema"]) == (3e-4, 1, 0.5)


def refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: object
) -> str:
    assert command(monkeypatch, *words) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


def test_what_cannot_be_fine_tuned_is_told_in_one_line(
    start: Path,
    tuned: Path,
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def told(*words: object) -> str:
        given = ["--data-dir", tree, "--output", tmp_path / "new", *words]
        said = refused(monkeypatch, capfd, *given)
        assert not (tmp_path / "new").exists()
        return said

    assert "one of them" in told("--qat", start, "--resume", tuned)
    other = told("--qat", start, "--dataset", "toy-street")
    assert "--dataset toy-street, but" in other
    assert "was trained on camvid" in other
    assert "fake quantisation already" in told("--qat", tuned / "best.pth")
    assert "no file at" in told("--qat", tmp_path / "none.pth")
    bare = {"epoch": 1, "model": load_checkpoint(start).state}
    torch.save(bare, tmp_path / "public.pth")
    assert "add --dataset camvid" in told("--qat", tmp_path / "public.pth")

    broken = load_checkpoint(start)
    broken.state["init_conv.1.bn_prelu.bn.bias"][0] = torch.nan
    save_checkpoint(broken, tmp_path / "nan.pth")
    said = told("--qat", tmp_path / "nan.pth")
    assert "not finite in 'init_conv.1.bn_prelu.bn.bias'" in said


def test_other_classes_and_another_network_are_refused(
    monkeypatch: pytest.MonkeyPatch, start: Path, tree: Path, tmp_path: Path
) -> None:
    register(monkeypatch)
    checkpoint = load_checkpoint(start)
    labels = replace(checkpoint.labels, classes=checkpoint.labels.classes[::-1])
    save_checkpoint(replace(checkpoint, labels=labels), tmp_path / "other.pth")
    spec = spec_for(tmp_path / "new", recipe=QAT_RECIPE, qat=tmp_path / "other.pth")
    with pytest.raises(InputError, match="has the classes bicyclist, .*expected those of camvid"):
        run(tree, spec)
    with pytest.raises(InputError, match="--model tiny, but .* is a dabnet"):
        run(tree, replace(spec, qat=start, model="tiny"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ranges: ranges.pop("init_conv.0.conv"), "1 differ, such as 'init_conv.0.conv'"),
        (lambda ranges: ranges.update({"conv9": 1.0}), "1 differ, such as 'conv9'"),
        (lambda ranges: ranges.update({"classifier.0.conv": float("nan")}), "finite numbers"),
        (
            lambda ranges: ranges.update({"classifier.0.conv": -1.0}),
            "classifier.0.conv: expected .* equal to 0, got -1.0",
        ),
        (
            lambda ranges: ranges.update({"classifier.0.conv": "7"}),
            'classifier.0.conv: expected a valid number, got "7"',
        ),
    ],
)
def test_ranges_that_are_no_ranges_are_refused(
    tuned: Path, tree: Path, tmp_path: Path, change: Any, message: str
) -> None:
    last = load_checkpoint(tuned / "last.pth")
    ranges = dict(last.activation_ranges)
    change(ranges)
    save_checkpoint(replace(last, activation_ranges=ranges), tmp_path / "last.pth")
    with pytest.raises(ArtifactError, match=message):
        run(tree, spec_for(tmp_path, recipe=QAT_RECIPE, resume=tmp_path / "last.pth"))
