"""The tensors of a network: their names and shapes, and what no network can compute with."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dabnet.errors import ArtifactError
from dabnet.models import build_model

Shape = tuple[int, ...]
State = dict[str, Tensor]

COUNTER = "num_batches_tracked"


@lru_cache(maxsize=32)
def shapes(model: str, classes: int) -> dict[str, Shape]:
    """Name → shape of every tensor of a network."""
    # Not on the device "meta", whose initialisers import torch._dynamo, which takes seconds.
    with torch.random.fork_rng(devices=[]):
        state = build_model(model, classes).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def varying_sides(model: str, fewer: int, more: int) -> list[tuple[str, int]]:
    """Tensor and axis of each side that differs between two numbers of classes."""
    return [
        (name, axis)
        for name, shape in shapes(model, fewer).items()
        for axis, side in enumerate(shape)
        if side != shapes(model, more)[name][axis]
    ]


def add_counters(model: str, state: State) -> None:
    """Add counters of batches, which PyTorch 0.4 did not have and evaluation does not need."""
    for name in shapes(model, 2):
        if name.endswith(COUNTER):
            state.setdefault(name, torch.tensor(0))


def misfits(model: str, classes: int, state: State) -> str:
    """Say in which tensors ``state`` differs from a network's; "" if in none."""
    expected = shapes(model, classes)
    wrong = [f"{name} is missing" for name in expected if name not in state]
    wrong += [
        f"{name} is {list(state[name].shape)} and not {list(shape)}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    wrong += [f"{name} is not in it" for name in state if name not in expected]
    more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return ", ".join(wrong[:3]) + more


def check_tensors(state: Any, names: Collection[str], file: Path) -> None:
    """Raise for weights that are no finite real numbers: every mask would be one class, silently.

    Args:
        state: name → tensor, as a file holds it.
        names: of the tensors that are looked at; others may be anything.

    Raises:
        ArtifactError: one is complex, quantised, not numbers or not finite in float32, is a counter
            that is no whole number, or a variance below 0.
    """
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            given = f"{str(file)!r} holds no state dict ({name!r} is a {type(tensor).__name__})"
            raise ArtifactError(given, "tensors by name", "save network.state_dict()")
        if name not in names:
            continue
        counts = name.endswith(COUNTER)
        if tensor.is_quantized or tensor.is_complex() or counts == tensor.is_floating_point():
            given = f"{str(file)!r} holds {str(tensor.dtype).removeprefix('torch.')} in {name!r}"
            expected = "whole numbers" if counts else "float weights"
            raise ArtifactError(given, expected, "take the checkpoint that they were made from")
        if not counts and not bool(tensor.float().isfinite().all()):
            raise ArtifactError(
                f"{str(file)!r} has values that are not finite in {name!r}",
                "finite weights",
                "train it again, or take an earlier checkpoint",
            )
        if name.endswith("running_var") and bool((tensor < 0).any()):
            given = f"{str(file)!r} has a variance below 0 in {name!r}"
            raise ArtifactError(given, "variances", "train it again, or take an earlier checkpoint")
