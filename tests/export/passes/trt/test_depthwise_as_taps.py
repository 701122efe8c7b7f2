"""Depthwise 3x1 and 1x3 convolutions as shifted products, at any size, batch and dilation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from export.passes.trt.depthwise_as_taps import depthwise_as_taps
from tests.support.pass_graphs import GraphOf, applied, assert_equal, kinds, run
from tests.support.protobuf_graphs import stepwise


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 9),
    sides=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    dilation=st.integers(1, 16),
    along_rows=st.booleans(),
    open_size=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_the_convolution_stays(
    batch: int,
    channels: int,
    sides: tuple[int, int],
    dilation: int,
    along_rows: bool,
    open_size: bool,
    seed: int,
) -> None:
    shape: tuple[Any, ...] = (batch, channels, *sides)
    graph = GraphOf((batch, channels, "rows", "columns") if open_size else shape, seed)
    kernel, pads, dilations = ((3, 1), [dilation, 0] * 2, [dilation, 1])
    if not along_rows:
        kernel, pads, dilations = ((1, 3), [0, dilation] * 2, [1, dilation])
    weight = (channels, 1, *kernel)
    graph.conv("x", "y", weight, group=channels, pads=pads, dilations=dilations)
    model = graph.model("y")
    result, changed = applied(depthwise_as_taps, model)
    assert len(changed) == 1 and "Conv" not in kinds(result)
    x = graph.random.normal(size=shape).astype(np.float32)
    assert_equal(model, result, x, 2e-6)


@pytest.mark.parametrize(
    ("weight", "attributes"),
    [
        ((4, 1, 3, 1), {"group": 4, "pads": [1, 0, 1, 0], "strides": [2, 1]}),
        ((4, 1, 3, 1), {"group": 4}),  # without padding
        ((4, 1, 3, 1), {"group": 4, "pads": [1, 0, 1, 0], "dilations": [2, 1]}),  # too little
        ((4, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
        ((4, 2, 3, 1), {"group": 2, "pads": [1, 0, 1, 0]}),
        ((8, 1, 3, 1), {"group": 4, "pads": [1, 0, 1, 0]}),
        ((4, 4, 3, 1), {"pads": [1, 0, 1, 0]}),
    ],
)
def test_other_convolutions_stay(weight: tuple[int, ...], attributes: dict[str, Any]) -> None:
    graph = GraphOf((1, 4, 6, 6))
    graph.conv("x", "y", weight, **attributes)
    assert applied(depthwise_as_taps, graph.model("y"))[1] == []


def test_half_precision_rounds_three_products() -> None:
    graph = GraphOf((1, 4, 8, 8), kind=TensorProto.FLOAT16)
    weight = graph.constant(graph.random.normal(size=(4, 1, 3, 1)).astype(np.float16))
    graph.node("Conv", ["x", weight], "y", group=4, pads=[1, 0, 1, 0])
    model = graph.model("y", kind=TensorProto.FLOAT16)
    result, changed = applied(depthwise_as_taps, model)
    x = graph.random.normal(size=(1, 4, 8, 8)).astype(np.float16)
    found, expected = (stepwise(m, {"x": x})["y"].astype(float) for m in (result, model))
    assert len(changed) == 1 and found.dtype == float
    assert np.abs(found - expected).max() <= 4 * 2.0**-11 * np.abs(expected).max()


def test_a_convolution_of_int8_stays() -> None:
    graph = GraphOf((1, 4, 6, 6))
    scale, zero = graph.constant(np.array(0.1)), graph.constant(np.array(0, np.int8))
    graph.node("QuantizeLinear", ["x", scale, zero], "q")
    graph.node("DequantizeLinear", ["q", scale, zero], "d")
    graph.conv("d", "y", (4, 1, 3, 1), group=4, pads=[1, 0, 1, 0])
    model = graph.model("y")
    assert applied(depthwise_as_taps, model)[1] == []
    assert run(model, np.ones((1, 4, 6, 6), np.float32))[0].any()
