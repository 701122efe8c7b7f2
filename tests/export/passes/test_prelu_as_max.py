"""PRelu as a maximum, or as a sum of two halves: the same numbers for any slopes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from export.passes.prelu_as_max import prelu_as_max
from tests.support.pass_graphs import GraphOf, applied, kinds, run

SLOPES = st.floats(-2, 3, width=32) | st.sampled_from([0.0, 1.0, -1.0, 0.25])


@settings(max_examples=40, deadline=None)
@given(
    slopes=st.lists(SLOPES, min_size=1, max_size=9),
    sides=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    shared=st.booleans(),
    kind=st.sampled_from([TensorProto.FLOAT, TensorProto.FLOAT16]),
    seed=st.integers(0, 2**31),
)
def test_the_numbers_are_the_same(
    slopes: list[float], sides: tuple[int, int, int], shared: bool, kind: int, seed: int
) -> None:
    batch, *size = sides
    graph = GraphOf((batch, len(slopes), *size), seed, kind)
    dtype = np.float32 if kind == TensorProto.FLOAT else np.float16
    graph.prelu("x", "y", np.array(slopes[:1] if shared else slopes, dtype))
    model = graph.model("y", kind=kind)
    result, changed = applied(prelu_as_max, model)
    largest = np.array(slopes[:1] if shared else slopes, dtype).max()
    assert len(changed) == 1 and "PRelu" not in kinds(result)
    assert ("Max" in kinds(result)) == (largest <= 1)
    x = 8 * graph.random.normal(size=(batch, len(slopes), *size))
    x = x.astype(dtype)
    assert np.array_equal(run(result, x)[0], run(model, x)[0])


@pytest.mark.parametrize("worst", [0.5, 1.5])
def test_large_numbers_stay(worst: float) -> None:
    graph = GraphOf((1, 2, 1, 2))
    graph.prelu("x", "y", np.array([0.25, worst]))
    model = graph.model("y")
    x = np.array([3e38, -1e38, 0.0, -1e-38], np.float32).reshape(1, 2, 1, 2)
    assert np.array_equal(run(applied(prelu_as_max, model)[0], x)[0], run(model, x)[0])


def test_slopes_that_a_call_computes_stay() -> None:
    graph = GraphOf((1, 4, 3, 3))
    graph.node("Abs", ["x"], "slopes")
    graph.node("PRelu", ["x", "slopes"], "y")
    model = graph.model("y")
    assert applied(prelu_as_max, model)[1] == []
