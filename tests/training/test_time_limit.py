"""A run with a time limit: what fits is planned from measured times, and kept to."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import dabnet.training.loop
import dabnet.training.measuring
import dabnet.training.time_limit
from dabnet.checkpoint import load_checkpoint
from dabnet.errors import InputError
from dabnet.training.learner import Learner
from dabnet.training.log import RunLog
from dabnet.training.spec import TrainingSpec
from dabnet.training.time_limit import RESERVE_S, Costs, TimeLimit, Watch
from tests.support.processes import run_python
from tests.support.training_runs import (
    PER_EPOCH,
    RECIPE,
    assert_same_run,
    command,
    in_call,
    log_of,
    run,
    sends,
    spec_for,
)

IMAGE_S = 0.1
LONG = replace(RECIPE, max_epochs=1000)


class Clock:
    """Seconds that pass only where work is done; looking at it takes a microsecond."""

    def __init__(self) -> None:
        self.now = 5000.0

    def monotonic(self) -> float:
        self.now += 1e-6
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of a run, where only the images of validations take time: two, and two pictures."""
    clock, segment = Clock(), dabnet.training.loop._Run._segment
    for module in ("loop", "measuring", "time_limit"):
        monkeypatch.setattr(f"dabnet.training.{module}.time", clock)

    def slow(*arguments: Any) -> Any:
        clock.now += IMAGE_S
        return segment(*arguments)

    monkeypatch.setattr(dabnet.training.loop._Run, "_segment", slow)
    return clock


def steps_take(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, seconds: Callable[[int], float]
) -> list[int]:
    """Let the n-th step, counted from 1 with those of the measurement, take ``seconds(n)``.

    Returns:
        The iterations of all steps, to which each adds its own.
    """
    step, done = Learner.step, list[int]()

    def slow(learner: Learner, iteration: int, *arguments: Any) -> Tensor:
        done.append(iteration)
        clock.now += seconds(len(done))
        return step(learner, iteration, *arguments)

    monkeypatch.setattr(Learner, "step", slow)
    return done


def spec_in(output: Path, clock: Clock, seconds: float) -> TrainingSpec:
    limit = TimeLimit(seconds / 60, clock.now)
    return spec_for(output, recipe=LONG, limit=limit, save_seconds=math.inf)


def validations(total: int, per_epoch: int, every: int, pending: int) -> int:
    """How many there are from the end of epoch ``pending`` on in a run of ``total`` iterations."""
    ends = range(pending * per_epoch, total + 1, per_epoch)
    regular = sum(end // per_epoch % every == 0 for end in ends)
    return regular + (total % (per_epoch * every) != 0)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.integers(1, 9),
    st.integers(1, 60),
    st.integers(0, 40),
    st.integers(1, 7),
    st.floats(0.01, 30),
    st.floats(-5, 400),
)
def test_as_many_iterations_as_fit(
    per_epoch: int, more: int, done: int, every: int, validation_s: float, seconds: float
) -> None:
    costs, most, pending = Costs(1.0, validation_s), done + more, math.ceil(done / per_epoch)
    found = costs.fitting(seconds, done, most, per_epoch, every, pending)

    def fits(total: int) -> bool:
        scored = validations(total, per_epoch, every, pending) * validation_s
        return total - done + scored <= seconds

    candidates = [total for total in range(done + 1, most + 1) if fits(total)]
    whole = [total for total in candidates if total % per_epoch == 0 or total == most]
    assert found == max(whole or candidates, default=done)


def test_validations_take_no_more_than_a_fifth_unless_asked_for() -> None:
    assert Costs(0.02, 1.5).interval(per_epoch=22, epochs=1000) == 50  # a twentieth of the run
    assert Costs(0.75, 25.0).interval(per_epoch=50, epochs=9) == 3  # 25 s after 113 s
    assert Costs(0.75, 250.0).interval(per_epoch=50, epochs=2.5) == 3  # at the end
    assert Costs(1.0, 1.0).interval(per_epoch=50, epochs=0.1) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param(
            {"recipe": replace(LONG, amp="fp16", ema=0.8, loss="ohem"), "data_path": "device"},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"recipe": replace(LONG, optimizer="sgd"), "workers": 1}, marks=pytest.mark.slow
        ),
    ],
)
def test_a_fitted_run_is_the_run_of_these_epochs(
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clock: Clock,
    capfd: pytest.CaptureFixture[str],
    changes: dict[str, Any],
) -> None:
    # As if the first step compiled.
    started, steps = clock.now, steps_take(monkeypatch, clock, lambda n: 8.0 if n == 1 else 3.0)
    spec = replace(spec_in(tmp_path / "fitted", clock, 60), **changes)
    assert run(tree, spec).finished
    assert clock.now - started <= 60 - RESERVE_S
    assert steps == [0, 1, 2, *range(4 * PER_EPOCH)]
    # 60 s but for 3 %, 1 s, 14 s of steps and 0.5 s of images: 42.7 s. An epoch takes 9 s.
    assert "fits 4 epochs into 1 minutes: 0.7 images/s" in capfd.readouterr().err
    last = load_checkpoint(tmp_path / "fitted" / "last.pth")
    assert last.recipe == spec.recipe.to_dict() | {"max_epochs": 4}

    monkeypatch.undo()
    recipe = replace(spec.recipe, max_epochs=4)
    assert run(
        tree, replace(spec, output=tmp_path / "plain", recipe=recipe, limit=None, workers=0)
    ).finished
    assert_same_run(tmp_path / "fitted", tmp_path / "plain")


def test_no_more_than_the_epochs_of_the_recipe(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    steps_take(monkeypatch, clock, lambda _: 0.01)
    spec = spec_in(tmp_path, clock, 1e300)
    assert run(tree, replace(spec, recipe=replace(LONG, max_epochs=2), eval_every=None)).finished
    # A validation would take as long as 13 epochs.
    assert [row["val_miou"] != "" for row in log_of(tmp_path)] == [False, True]


def test_a_part_of_an_epoch(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """Where no whole one fits."""
    started, losses = clock.now, []
    steps_take(monkeypatch, clock, lambda _: 10.0)
    monkeypatch.setattr(RunLog, "iteration", lambda *values: losses.append(values[2]))
    assert run(tree, spec_in(tmp_path, clock, 56)).finished
    assert clock.now - started <= 56 - RESERVE_S
    last = load_checkpoint(tmp_path / "last.pth")
    assert last.training["iteration"] == 2
    assert last.recipe["max_epochs"] == pytest.approx(2 / 3)
    (row,) = log_of(tmp_path)
    assert (row["epoch"], row["iteration"]) == ("1", "2")
    assert float(row["loss"]) == sum(losses) / 2
    assert float(row["val_miou"]) == load_checkpoint(tmp_path / "best.pth").metrics["val_miou"]
    # The recipe says it.
    monkeypatch.undo()
    words = ["--data-dir", tree, "--recipe", "paper", "--input-size", "32x32", "--batch-size", 2]
    words += ["--lr", 2e-3]
    words += ["--seed", 5, "--max-epochs", 2 / 3, "--eval-every", 2, "--output", tmp_path / "b"]
    assert command(monkeypatch, *words) == 0
    assert_same_run(tmp_path / "b", tmp_path)


def test_a_time_in_which_no_step_fits_is_told_and_leaves_nothing(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    steps_take(monkeypatch, clock, lambda _: 10.0)
    spec = spec_in(tmp_path, clock, 42)
    message = (
        "--max-minutes 0.7, but 31 s had passed before training, a step takes 10 s and a"
        " validation 0.4 s; expected more than 0.8 minutes"
    )
    with pytest.raises(InputError) as error:
        run(tree, spec)
    assert str(error.value) == message
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_slows_down_ends_in_time(
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clock: Clock,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Its rate still falls to 0, and its recipe is that of what was trained."""
    started = clock.now
    steps = steps_take(monkeypatch, clock, lambda n: 4.0 if n < 20 else 12.0)
    result = run(tree, replace(spec_in(tmp_path, clock, 200), eval_every=5))
    assert result.finished
    assert 160 < clock.now - started <= 200 - RESERVE_S
    last = load_checkpoint(result.last)
    total = last.training["iteration"]
    assert total == len(steps) - steps.index(0, 1)
    assert last.recipe["max_epochs"] == total / PER_EPOCH
    assert last.training["schedule"]["_last_lr"] == [0.0]
    told = capfd.readouterr().err
    assert "fits 14 epochs" in told
    assert f"slower than planned: {total / PER_EPOCH:g} epochs fit, no longer" in told
    # A continued run takes up nothing that was given up.
    before = result.last.read_bytes()
    words = ["--resume", tmp_path, "--data-dir", tree]
    assert command(monkeypatch, *words) == 0
    assert result.last.read_bytes() == before


@pytest.mark.slow
def test_a_shortened_run_that_was_stopped_continues_exactly(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    for name in ("whole", "parts"):
        with monkeypatch.context() as patch:
            if name == "parts":
                in_call(patch, 3 + 8, sends(signal.SIGINT))
            steps = steps_take(patch, clock, lambda n: 1.0 if n <= 3 else 2.0)
            result = run(tree, spec_in(tmp_path / name, clock, 40))
        assert steps[:4] == [0, 1, 2, 0]
    assert not result.finished
    assert load_checkpoint(result.last).training["iteration"] == 8
    assert load_checkpoint(result.last).recipe["max_epochs"] == 5  # of 10
    assert command(monkeypatch, "--resume", tmp_path / "parts", "--data-dir", tree) == 0
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_a_moment_of_other_work_shortens_nothing(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    in_call(monkeypatch, 3 + 11, sends(signal.SIGINT))
    steps_take(monkeypatch, clock, lambda n: 14.0 if n == 8 else 4.0)
    result = run(tree, replace(spec_in(tmp_path, clock, 200), eval_every=5))
    assert load_checkpoint(result.last).recipe["max_epochs"] == 14


def test_validations_are_no_part_of_the_pace(clock: Clock) -> None:
    watch = Watch(TimeLimit(10, clock.now), Costs(1.0, 4.0), 200)
    for done in range(1, 21):  # five chunks, each with a validation
        clock.now += 1.0
        if watch.is_due(done):
            break
        if done % 4 == 0:
            clock.now += 5.0
            watch.validated(5.0)
    assert done == 20
    assert watch.total(done, 200, per_epoch=4, every=1) == 200
    assert watch.costs.step_s == pytest.approx(1.0, rel=1e-3)
    assert watch.costs.validation_s == pytest.approx(5.0, rel=1e-3)


def test_fine_tuning_is_scored_before_its_first_step(
    tree: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    steps_take(monkeypatch, clock, lambda _: 1.0)
    spec = replace(spec_in(tmp_path, clock, 30), eval_every=100, qat=whole / "best.pth")
    assert run(tree, replace(spec, recipe=replace(LONG, lr=1e-5))).finished
    # 24.6 s are left for epochs of 3 s, and 0.4 s each for a validation before and after them.
    assert [row["epoch"] for row in log_of(tmp_path)] == [*"01234567"]


@pytest.mark.parametrize("fault", [KeyboardInterrupt, MemoryError])
def test_an_end_while_it_is_measured_leaves_nothing(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: type[BaseException]
) -> None:
    def end(_: Tensor) -> Tensor:
        raise fault

    in_call(monkeypatch, 2, end)
    words = ["--data-dir", tree, "--input-size", "32x32", "--batch-size", 2, "--output", tmp_path]
    assert command(monkeypatch, *words, "--max-minutes", 1) in (130, 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--max-minutes", "0"], "0.0 is not in the range 0<x<="),
        (["--max-minutes", "-1"], "-1.0 is not in the range 0<x<="),
        (["--max-minutes", "nan"], "nan is not finite"),
        (["--max-minutes", "inf"], "inf is not in the range 0<x<="),
        (["--max-epochs", "0"], "0.0 is not in the range 0<x<="),
        (["--max-epochs", "-0.5"], "-0.5 is not in the range 0<x<="),
    ],
)
def test_a_bad_time_is_one_line(
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: list[str],
    expected: str,
) -> None:
    assert command(monkeypatch, "--data-dir", tree, "--output", tmp_path / "a", *words) == 2
    error = capfd.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_a_continued_run_takes_no_limit(
    tree: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["--resume", whole, "--data-dir", tree, "--max-minutes", 15]
    assert command(monkeypatch, *words) == 2
    assert capfd.readouterr().err == (
        f"error: --max-minutes 15 and --resume {whole / 'last.pth'}; expected one of them: a run"
        " that is continued keeps its epochs; leave --max-minutes out\n"
    )


def test_a_real_process(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--data-dir", tree, "--input-size", "32x32", "--batch-size", 2, "--max-epochs", 2]
    words += ["--max-minutes", 10, "--output", tmp_path / "run"]
    done = run_python("from dabnet.cli import main; main()", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "at most 6 iterations, as many as fit into 10 min" in done.stdout
    assert "fits 2 epochs into 10 minutes: " in done.stderr
    assert "best validation mIoU" in done.stdout
    assert command(monkeypatch, "--resume", tmp_path / "run", "--data-dir", tree) == 0
