"""Pools as strided slices: the same maximum, the same mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.passes.trt.pools_as_slices import pools_as_slices
from tests.support.pass_graphs import GraphOf, applied, assert_equal, kinds

MAX = {"kernel_shape": [2, 2], "strides": [2, 2]}
MEAN = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "count_include_pad": 1}


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 5),
    sides=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 2**31),
)
def test_both_pools(batch: int, channels: int, sides: tuple[int, int], seed: int) -> None:
    shape = (batch, channels, 2 * sides[0], 2 * sides[1])
    graph = GraphOf(shape, seed)
    graph.node("MaxPool", ["x"], "y", **MAX)
    graph.node("AveragePool", ["x"], "z", **MEAN)
    model = graph.model("y", "z")
    result, changed = applied(pools_as_slices, model)
    assert len(changed) == 2 and not {"MaxPool", "AveragePool"} & set(kinds(result))
    x = graph.random.normal(size=shape).astype(np.float32)
    assert_equal(model, result, x, 1e-6)
    assert_equal(*(on_output(m, "y") for m in (model, result)), x, 0)


def on_output(model: Any, name: str) -> Any:
    """The model with one of its outputs."""
    kept = type(model)()
    kept.CopyFrom(model)
    others = [output for output in kept.graph.output if output.name != name]
    for output in others:
        kept.graph.output.remove(output)
    return kept


@pytest.mark.parametrize(
    ("kind", "attributes", "sides"),
    [
        ("MaxPool", MAX, (5, 6)),  # an odd side
        ("MaxPool", MAX, ("rows", 6)),  # an open one
        ("MaxPool", {**MAX, "strides": [1, 1]}, (6, 6)),
        ("MaxPool", {**MAX, "kernel_shape": [3, 3]}, (6, 6)),
        ("AveragePool", {**MEAN, "count_include_pad": 0}, (6, 6)),
        ("AveragePool", {**MEAN, "pads": [0] * 4}, (6, 6)),
    ],
)
def test_other_pools_stay(kind: str, attributes: dict[str, Any], sides: tuple[Any, Any]) -> None:
    graph = GraphOf((1, 3, *sides))
    graph.node(kind, ["x"], "y", **attributes)
    assert applied(pools_as_slices, graph.model("y"))[1] == []
