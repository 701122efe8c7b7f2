"""3x3 convolutions by minimal filtering: the same convolution, with other rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from export.passes.ort.winograd import winograd
from tests.support.pass_graphs import GraphOf, applied, assert_equal, kinds, run

SAME = {"pads": [1, 1, 1, 1]}


@settings(max_examples=12, deadline=None)
@given(rows=st.integers(1, 13), columns=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_error_is_that_of_float32(rows: int, columns: int, seed: int) -> None:
    """Against float64: the stated 3e-6, for every remainder of the rows by 4."""
    shape = (2, 64, rows, columns)
    graph = GraphOf(shape, seed)
    graph.conv("x", "y", (16, 64, 3, 3), **SAME)
    model = graph.model("y")
    result, changed = applied(winograd, model)
    x = graph.random.normal(size=shape).astype(np.float32)
    weight, bias = (
        torch.from_numpy(numpy_helper.to_array(c).astype(np.float64))
        for c in model.graph.initializer
    )
    exact = torch.conv2d(torch.from_numpy(x).double(), weight, bias, padding=1).numpy()
    (found,) = run(result, x)
    assert found.shape == exact.shape and len(changed) == 1
    error = np.sqrt(np.mean((found - exact) ** 2)) / np.sqrt(np.mean(exact**2))
    assert error < 3e-6
    # Six products of 1x3 instead of one of 3x3: half of the multiply-adds of four rows.
    dense = [i for i in result.graph.initializer if len(i.dims) == 4 and i.dims[1] == 64]
    assert [tuple(i.dims) for i in dense] == [(16, 64, 1, 3)] * 6


def test_without_a_bias() -> None:
    graph = GraphOf((1, 64, 8, 8))
    weight = graph.constant(graph.random.normal(size=(16, 64, 3, 3)))
    graph.node("Conv", ["x", weight], "y", **SAME)
    model = graph.model("y")
    result, _ = applied(winograd, model)
    x = graph.random.normal(size=(1, 64, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(run(result, x)[0], run(model, x)[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("weights", "attributes"),
    [
        ((16, 64, 3, 3), {**SAME, "strides": [2, 2]}),
        ((16, 64, 3, 3), {"pads": [2, 2, 2, 2], "dilations": [2, 2]}),
        ((16, 64, 3, 3), {}),
        ((16, 32, 3, 3), {**SAME, "group": 2}),
        ((16, 64, 1, 1), {}),
        ((8, 64, 3, 3), SAME),
    ],
)
def test_others_stay(weights: tuple[int, ...], attributes: dict[str, Any]) -> None:
    graph = GraphOf((1, 64, 8, 8))
    graph.conv("x", "y", weights, **attributes)
    result, changed = applied(winograd, graph.model("y"))
    assert changed == [] and kinds(result) == ["Conv"]


@settings(max_examples=10, deadline=None)
@given(
    quarter_rows=st.integers(1, 4),
    columns=st.integers(1, 6),
    between=st.lists(st.sampled_from(["prelu", "norm"]), max_size=2),
    pooled=st.booleans(),
    also_read=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_rows_stay_apart_until_something_needs_the_whole(
    quarter_rows: int, columns: int, between: list[str], pooled: bool, also_read: bool, seed: int
) -> None:
    """As in DABNet's stem: two convolutions of 32 channels, then half the size by two ways."""
    shape = (1, 32, 4 * quarter_rows, 2 * columns)
    graph = GraphOf(shape, seed)
    value = graph.conv("x", "first", (32, 32, 3, 3), **SAME)
    for index, kind in enumerate(between):
        name = f"between_{index}"
        if kind == "prelu":
            value = graph.prelu(value, name, graph.random.uniform(-1, 2, 32))
        else:
            value = graph.batch_norm(value, name, 32)
    value = graph.conv(value, "second", (32, 32, 3, 3), **SAME)
    value = graph.prelu(value, "active", graph.random.uniform(0, 1, 32))
    outputs = [graph.conv(value, "down", (24, 32, 3, 3), strides=[2, 2], **SAME)]
    if pooled:
        pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
        outputs.append(graph.node("MaxPool", [value], "pool", **pool))
    if also_read:
        outputs.append(graph.node("Sigmoid", [value], "whole"))
    model = graph.model(*outputs)
    result, changed = applied(winograd, model)
    assert_equal(model, result, graph.random.normal(size=shape).astype(np.float32), 3e-5)
    assert len(changed) == 2
    # Each output is laid together; or else the one tensor that all of them read.
    assert kinds(result).count("Concat") == (1 if also_read else len(outputs))
