"""PRelu as depthwise convolutions: the same function for every slope."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.passes.ort.prelu_as_relu import prelu_as_relu
from tests.support.pass_graphs import GraphOf, applied, assert_equal, kinds

SHAPE = (2, 16, 6, 7)
SLOPES = {
    "negative": (-1.5, -0.1),
    "usual": (0.0, 1.0),
    "above one": (1.001, 3.0),
    "all kinds": (-2.0, 3.0),
}


@pytest.mark.parametrize("slopes", SLOPES)
@pytest.mark.parametrize("before", ["", "batch norm", "depthwise", "dense"])
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_is_the_same_function(slopes: str, before: str, seed: int) -> None:
    graph = GraphOf(SHAPE, seed)
    x = "x"
    if before == "batch norm":
        x = graph.batch_norm(x, "y", 16)
    elif before == "depthwise":
        dilated = {"dilations": [2, 1], "pads": [2, 0, 2, 0]}
        x = graph.conv(x, "y", (16, 1, 3, 1), group=16, **dilated)
    elif before == "dense":
        x = graph.conv(x, "y", (16, 16, 3, 3), pads=[1, 1, 1, 1])
    drawn = graph.random.uniform(*SLOPES[slopes], 16)
    graph.prelu(x, "z", drawn)
    model = graph.model("z")
    result, changed = applied(prelu_as_relu, model)
    assert_equal(model, result, 3 * graph.random.normal(size=SHAPE).astype(np.float32), 1e-6)
    assert len(changed) == 1
    assert "PRelu" not in kinds(result) and "BatchNormalization" not in kinds(result)
    # y's own operator is folded into both rows where it acts on each channel alone.
    signs = bool((drawn > 1).any())
    assert kinds(result).count("Conv") == 2 + (before == "dense") + signs


def test_what_else_reads_the_input_still_can() -> None:
    graph = GraphOf(SHAPE)
    graph.batch_norm("x", "y", 16)
    graph.prelu("y", "z", graph.random.uniform(0, 1, 16))
    model = graph.model("z", "y")
    result, changed = applied(prelu_as_relu, model)
    assert_equal(model, result, graph.random.normal(size=SHAPE).astype(np.float32), 1e-6)
    assert kinds(result).count("BatchNormalization") == 1 and "alone" in changed[0]


def test_one_slope_of_all_channels() -> None:
    """As ENet has it."""
    graph = GraphOf(SHAPE)
    graph.conv("x", "y", (16, 16, 3, 3), pads=[1, 1, 1, 1])
    graph.prelu("y", "z", np.array([0.3]))
    model = graph.model("z")
    result, changed = applied(prelu_as_relu, model)
    assert_equal(model, result, graph.random.normal(size=SHAPE).astype(np.float32), 1e-6)
    assert "PRelu" not in kinds(result) and "16 channels" in changed[0]


@pytest.mark.parametrize("slopes", [(3, 1, 1), (16, 1, 7)])
def test_others_stay(slopes: tuple[int, ...]) -> None:
    """3 channels leave the blocked layout anyway; a slope of each column is no channel's weight."""
    shape = (1, slopes[0], 6, 7)
    graph = GraphOf(shape)
    graph.node("PRelu", ["x", graph.constant(np.full(slopes, 0.3))], "z")
    result, changed = applied(prelu_as_relu, graph.model("z"))
    assert changed == [] and kinds(result) == ["PRelu"]
