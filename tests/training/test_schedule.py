"""The learning rate of every iteration is that of the published formula."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import LambdaLR

from dabnet.training.learner import learning_rate
from dabnet.training.recipes import RECIPES, Recipe

torch.set_num_threads(1)


CAMVID = RECIPES["camvid"]


def schedule(
    total: int, warmup: int, lr: float = 1e-3, recipe: Recipe = CAMVID
) -> tuple[torch.optim.Adam, LambdaLR]:
    optimiser = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr)
    return optimiser, learning_rate(optimiser, total, warmup, recipe.decay)


def rates(total: int, warmup: int, lr: float = 1e-3, recipe: Recipe = CAMVID) -> list[float]:
    """The rate that each iteration of a run is trained with."""
    optimiser, steps = schedule(total, warmup, lr, recipe)
    used = []
    for _ in range(total):
        used.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        steps.step()
    return used


def published(iteration: int, total: int, warmup: int, lr: float) -> float:
    if iteration < warmup:
        share = iteration / warmup
        return float(lr * (1 / 3 * (1 - share) + share))
    return float(lr * (1 - (iteration - warmup) / (total - warmup)) ** 0.9)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(1, 120), st.integers(0, 119), st.sampled_from([1e-3, 4.5e-2]))
def test_every_iteration_follows_the_formula(total: int, warmup: int, lr: float) -> None:
    warmup %= total
    expected = [published(i, total, warmup, lr) for i in range(total)]
    assert rates(total, warmup, lr) == pytest.approx(expected, rel=1e-9)


def test_values_worked_out_by_hand() -> None:
    used = rates(1000, 500)
    assert used[0] == pytest.approx(1e-3 / 3)
    assert used[250] == pytest.approx(2e-3 / 3)  # half of the way up
    assert used[500] == pytest.approx(1e-3)  # the peak
    assert used[750] == pytest.approx(5.358867e-4)  # 0.5 ** 0.9
    assert used[999] == pytest.approx(3.723e-6, rel=1e-3)  # 0.002 ** 0.9
    assert max(used) == used[500]


def test_a_cosine_worked_out_by_hand() -> None:
    used = rates(1000, 500, recipe=replace(CAMVID, schedule="cosine"))
    assert used[250] == pytest.approx(2e-3 / 3)
    assert used[500] == pytest.approx(1e-3)
    assert used[625] == pytest.approx(1e-3 * (1 + 0.5**0.5) / 2)  # an eighth of a turn
    assert used[750] == pytest.approx(5e-4)
    assert used[999] == pytest.approx(9.87e-9, rel=1e-3)  # (pi / 500) ** 2 / 4


def test_a_restored_schedule_goes_on_as_if_it_had_never_stopped() -> None:
    whole = rates(60, 10)
    for stopped in (4, 10, 37):
        optimiser, steps = schedule(60, 10)
        for _ in range(stopped):
            optimiser.step()
            steps.step()
        state = optimiser.state_dict(), steps.state_dict()
        optimiser, steps = schedule(60, 10)
        optimiser.load_state_dict(state[0])
        steps.load_state_dict(state[1])
        used = []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(60 - stopped):
                used.append(optimiser.param_groups[0]["lr"])
                optimiser.step()
                steps.step()
        assert used == whole[stopped:]


def test_the_warm_up_of_a_short_run_is_a_tenth_of_it() -> None:
    assert [CAMVID.warmup_of(total) for total in (22000, 5000, 800, 9)] == [500, 500, 80, 0]
