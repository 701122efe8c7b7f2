"""One step of training, against what it is defined as."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dabnet.interrupt import Stop
from dabnet.preprocessing import Preprocessing
from dabnet.training.learner import Learner
from dabnet.training.processes import Processes
from tests.support.training_runs import RECIPE, spec_for

CLASSES, IGNORE, STEPS = 3, 9, 5


def learner(folder: Path, recipe: dict[str, Any] | None = None, **changes: Any) -> Learner:
    spec = spec_for(folder, recipe=replace(RECIPE, **(recipe or {})), **changes)
    weights = torch.tensor([1.0, 2.0, 4.0])
    mean = Preprocessing((100.0, 110.0, 120.0))
    return Learner(spec, CLASSES, IGNORE, mean, weights, STEPS, Processes())


def batch(number: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(number)
    pixels = torch.randint(0, 256, (2, 32, 40, 3), generator=random, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (2, 32, 40), generator=random, dtype=torch.uint8)
    labels[:, :5] = IGNORE
    return pixels, labels


def losses(trained: Learner) -> list[float]:
    return [float(trained.step(i, *batch(i), Stop())[0]) for i in range(STEPS)]


def test_a_step_is_the_plain_training_step(tmp_path: Path) -> None:
    trained, plain = learner(tmp_path), learner(tmp_path)
    optimiser = torch.optim.Adam(plain.network.parameters(), 1.0, weight_decay=2e-4)
    for number in range(STEPS):
        optimiser.param_groups[0]["lr"] = trained.lr
        loss, asked = trained.step(number, *batch(number), Stop(number == 3)).tolist()
        assert asked == (number == 3)
        pixels, labels = batch(number)
        mean = torch.tensor([100.0, 110.0, 120.0]).view(3, 1, 1)
        image = pixels.permute(0, 3, 1, 2) - mean
        expected = torch.nn.functional.cross_entropy(
            plain.network(image), labels.long(), plain.criterion.weights, ignore_index=IGNORE
        )
        optimiser.zero_grad()
        expected.backward()
        optimiser.step()
        # Rounding grows from step to step.
        assert loss == pytest.approx(float(expected.detach()), rel=1e-6 * 20**number)


def test_the_kept_weights_are_the_average_of_all_so_far(tmp_path: Path) -> None:
    decay = 0.75
    trained, bare = learner(tmp_path, {"ema": decay}), learner(tmp_path)
    average: dict[str, Tensor] = {}
    for number in range(STEPS):
        trained.step(number, *batch(number), Stop())
        bare.step(number, *batch(number), Stop())
        for name, tensor in bare.network.state_dict().items():
            before = average.get(name, tensor)
            average[name] = (decay * before + (1 - decay) * tensor).to(tensor.dtype)
    kept = trained.kept_weights()
    for name, tensor in bare.network.state_dict().items():
        assert torch.equal(trained.network.state_dict()[name], tensor)  # it trains as without
        if tensor.is_floating_point():
            torch.testing.assert_close(kept[name], average[name])
    name = "classifier.0.conv.weight"
    assert not torch.equal(kept[name], bare.network.state_dict()[name])


@pytest.mark.parametrize(
    ("recipe", "changes", "tolerance"),
    [
        ({"amp": "bf16"}, {}, 0.05),
        ({"amp": "fp16"}, {}, 0.02),
        ({}, {"channels_last": False}, 1e-3),
        pytest.param({}, {"compile": True}, 1e-3, marks=pytest.mark.slow),
    ],
)
def test_faster_ways_learn_the_same(
    tmp_path: Path, recipe: dict[str, Any], changes: dict[str, Any], tolerance: float
) -> None:
    faster, plain = learner(tmp_path, recipe, **changes), learner(tmp_path)
    got, expected = losses(faster), losses(plain)
    assert got[:3] == pytest.approx(expected[:3], rel=tolerance)
    if recipe:
        assert got != expected  # half precision was used indeed
    for name, tensor in faster.kept_weights().items():
        assert tensor.is_contiguous()
        assert tensor.dtype == plain.kept_weights()[name].dtype


def test_a_batch_without_a_label_teaches_nothing(tmp_path: Path) -> None:
    trained = learner(tmp_path, {"optimizer": "sgd", "weight_decay": 0.0})
    before = {name: p.clone() for name, p in trained.network.named_parameters()}
    pixels, labels = batch(0)
    loss, _ = trained.step(0, pixels, labels.fill_(IGNORE), Stop()).tolist()
    assert loss == 0
    for name, parameter in trained.network.named_parameters():
        assert torch.equal(parameter, before[name])
