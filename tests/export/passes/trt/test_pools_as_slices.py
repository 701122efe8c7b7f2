"""Pools as strided slices: the same maximum, the same mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from export.passes.trt.pools_as_slices import pools_as_slices
from tests.support.pass_graphs import GraphOf, applied, assert_equal, kinds
from tests.support.protobuf_graphs import stepwise

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


def test_a_mean_does_not_overflow_in_half_precision() -> None:
    """Nine times 10,000 is more than FP16 holds; each tensor is rounded to it here."""
    graph = GraphOf((1, 1, 4, 4), kind=TensorProto.FLOAT16)
    graph.node("AveragePool", ["x"], "y", **MEAN)
    model = graph.model("y", kind=TensorProto.FLOAT16)
    result, changed = applied(pools_as_slices, model)
    x = np.full((1, 1, 4, 4), 10_000, np.float16)
    found, expected = (stepwise(m, {"x": x})["y"].astype(float) for m in (result, model))
    assert len(changed) == 1
    np.testing.assert_allclose(found, expected, rtol=3e-3)


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
        ("MaxPool", {**MAX, "dilations": [2, 2]}, (6, 6)),
        ("MaxPool", {**MAX, "ceil_mode": 1}, (6, 6)),
        ("MaxPool", {**MAX, "auto_pad": "SAME_UPPER"}, (6, 6)),
        ("MaxPool", {"kernel_shape": [2], "strides": [2]}, (6,)),
        ("MaxPool", {**MAX, "kernel_shape": [3, 3]}, (6, 6)),
        ("AveragePool", {**MEAN, "count_include_pad": 0}, (6, 6)),
        ("AveragePool", {**MEAN, "pads": [0] * 4}, (6, 6)),
    ],
)
def test_other_pools_stay(kind: str, attributes: dict[str, Any], sides: tuple[Any, Any]) -> None:
    graph = GraphOf((1, 3, *sides))
    graph.node(kind, ["x"], "y", **attributes)
    assert applied(pools_as_slices, graph.model("y"))[1] == []
