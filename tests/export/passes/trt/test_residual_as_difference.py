"""A sum with a convolution as a difference: the same bits, where it has several readers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.passes.trt.residual_as_difference import residual_as_difference
from tests.support.pass_graphs import Array, GraphOf, applied, kinds, run


@settings(max_examples=25, deadline=None)
@given(
    channels=st.integers(1, 8),
    side=st.integers(1, 7),
    conv_first=st.booleans(),
    int8=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_the_bits_are_the_same(
    channels: int, side: int, conv_first: bool, int8: bool, seed: int
) -> None:
    graph = GraphOf((2, channels, side, side), seed)
    graph.node("Sigmoid", ["x"], "h")
    if int8:
        levels = graph.random.integers(-127, 128, (channels, channels, 1, 1), dtype=np.int8)
        zeros = graph.constant(np.zeros(channels, np.int8))
        scales = graph.constant(graph.random.uniform(0.01, 0.1, channels))
        graph.node("DequantizeLinear", [graph.constant(levels), scales, zeros], "w", axis=0)
        graph.node("Conv", ["h", "w", graph.constant(graph.random.normal(size=channels))], "c")
    else:
        graph.conv("h", "c", (channels, channels, 3, 3), pads=[1, 1, 1, 1])
    graph.node("Add", ["c", "x"] if conv_first else ["x", "c"], "sum")
    graph.node("Relu", ["sum"], "y")
    graph.node("Neg", ["sum"], "z")
    model = graph.model("y", "z")
    result, changed = applied(residual_as_difference, model)
    assert len(changed) == 1 and "Add" not in kinds(result) and "Sub" in kinds(result)
    x = graph.random.normal(size=(2, channels, side, side)).astype(np.float32)
    for found, expected in zip(run(result, x), run(model, x), strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("levels", "zero"),
    [
        (np.full((4, 4, 1, 1), -128, np.int8), np.zeros(4, np.int8)),  # its negative is no int8
        (np.full((4, 4, 1, 1), 9, np.int8), np.array([0, 3, 0, 0], np.int8)),
        (np.full((4, 4, 1, 1), 9, np.uint8), np.full(4, 128, np.uint8)),
    ],
)
def test_int8_that_is_not_symmetric_stays(levels: Array, zero: Array) -> None:
    graph = GraphOf((1, 4, 5, 5))
    scales = graph.constant(np.full(4, 0.1))
    graph.node(
        "DequantizeLinear", [graph.constant(levels), scales, graph.constant(zero)], "w", axis=0
    )
    graph.node("Conv", ["x", "w"], "c")
    graph.node("Add", ["x", "c"], "sum")
    graph.node("Relu", ["sum"], "y")
    graph.node("Neg", ["sum"], "z")
    assert applied(residual_as_difference, graph.model("y", "z"))[1] == []


def one_reader(graph: GraphOf) -> list[str]:
    graph.node("Add", ["x", graph.conv("x", "c", (4, 4, 1, 1))], "y")
    return ["y"]


def two_convolutions(graph: GraphOf) -> list[str]:
    graph.node("Add", [graph.conv("x", "c", (4, 4, 1, 1)), graph.conv("x", "d", (4, 4, 1, 1))], "s")
    graph.node("Relu", ["s"], "y")
    graph.node("Neg", ["s"], "z")
    return ["y", "z"]


def convolution_read_elsewhere(graph: GraphOf) -> list[str]:
    graph.node("Add", ["x", graph.conv("x", "c", (4, 4, 1, 1))], "s")
    graph.node("Relu", ["s"], "y")
    graph.node("Add", ["s", "c"], "z")
    return ["y", "z"]


@pytest.mark.parametrize("build", [one_reader, two_convolutions, convolution_read_elsewhere])
def test_what_it_leaves_alone(build: Callable[[GraphOf], list[str]]) -> None:
    graph = GraphOf((1, 4, 5, 5))
    model: onnx.ModelProto = graph.model(*build(graph))
    result, changed = applied(residual_as_difference, model)
    assert changed == [] and kinds(result) == kinds(model)
