"""One scale for the int8 weights of a convolution, and a factor per channel behind it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from export.passes.trt.one_weight_scale import one_weight_scale
from tests.support.pass_graphs import Array, GraphOf, applied, assert_equal


def quantised(graph: GraphOf, channels: int, group: int, bias: bool) -> None:
    """``x`` → a convolution between Q/DQ, whose weights have a scale per channel."""
    scale, zero = graph.constant(np.array(0.1)), graph.constant(np.array(0, np.int8))
    graph.node("QuantizeLinear", ["x", scale, zero], "q")
    graph.node("DequantizeLinear", ["q", scale, zero], "d")
    shape = (channels, channels // group, 3, 3)
    levels = graph.constant(graph.random.integers(-127, 128, shape, dtype=np.int8), "levels")
    scales = graph.constant(np.exp(graph.random.uniform(-1, 1, channels)) / 100)
    zeros = graph.constant(np.zeros(channels, np.int8))
    graph.node("DequantizeLinear", [levels, scales, zeros], "w", axis=0)
    inputs = ["d", "w", *([graph.constant(graph.random.normal(size=channels))] if bias else [])]
    graph.node("Conv", inputs, "y", pads=[1, 1, 1, 1], group=group)


@settings(max_examples=25, deadline=None)
@given(
    groups=st.sampled_from([(4, 1), (4, 4), (6, 2)]),
    side=st.integers(1, 7),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_the_convolution_stays(groups: tuple[int, int], side: int, bias: bool, seed: int) -> None:
    channels, group = groups
    graph = GraphOf((2, channels, side, side), seed)
    quantised(graph, channels, group, bias)
    model = graph.model("y")
    result, changed = applied(one_weight_scale, model)
    assert len(changed) == 1
    x = graph.random.normal(size=(2, channels, side, side)).astype(np.float32)
    assert_equal(model, result, x, 2e-6)
    constants = {c.name: numpy_helper.to_array(c) for c in result.graph.initializer}
    (dequantised,) = [n for n in result.graph.node if n.input[0] == "levels"]
    assert constants[dequantised.input[1]].shape == ()  # one scale, and the same levels
    assert applied(one_weight_scale, result)[1] == []


def dequantised(graph: GraphOf, shape: tuple[int, ...], scales: Array, zero: Array) -> None:
    """``x`` → a convolution of weights behind a DequantizeLinear."""
    levels = graph.constant(graph.random.integers(0, 100, shape).astype(zero.dtype))
    inputs = [levels, graph.constant(scales), graph.constant(zero)]
    graph.node("DequantizeLinear", inputs, "w", axis=0)


UNFIT = {
    "uint8": ((4, 4, 1, 1), np.full(4, 0.1), np.full(4, 128, np.uint8)),
    "zero points": ((4, 4, 1, 1), np.full(4, 0.1), np.array([0, 3, 0, 0], np.int8)),
    "one dimension": ((4, 4, 1), np.full(4, 0.1), np.zeros(4, np.int8)),
    "a scale of 0": ((4, 4, 1, 1), np.array([0.1, 0, 0.1, 0.1]), np.zeros(4, np.int8)),
    "far apart": ((4, 4, 1, 1), np.array([1, 1, 1, 1e-4]), np.zeros(4, np.int8)),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_it_leaves_alone(name: str) -> None:
    shape, scales, zero = UNFIT[name]
    graph = GraphOf((1, 4, *[5] * (len(shape) - 2)))
    dequantised(graph, shape, scales, zero)
    graph.node("Conv", ["x", "w"], "y")
    assert applied(one_weight_scale, graph.model("y"))[1] == []


def test_a_bias_that_is_computed_stays() -> None:
    graph = GraphOf((1, 4, 5, 5))
    dequantised(graph, (4, 4, 1, 1), np.full(4, 0.1), np.zeros(4, np.int8))
    bias = [graph.constant(np.full(4, 30, np.int32)), graph.constant(np.array(1.0))]
    graph.node("DequantizeLinear", bias, "b")
    graph.node("Conv", ["x", "w", "b"], "y")
    assert applied(one_weight_scale, graph.model("y"))[1] == []


def test_a_float_convolution_stays() -> None:
    graph = GraphOf((1, 4, 5, 5))
    graph.conv("x", "y", (4, 4, 3, 3))
    assert applied(one_weight_scale, graph.model("y"))[1] == []
