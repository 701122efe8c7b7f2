"""A Concat moved into the convolutions that read it, past what acts on each channel alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from export.passes.sink_concat import sink_concat
from tests.support.pass_graphs import GraphOf, applied, assert_equal, kinds


def parts(graph: GraphOf, sizes: list[int]) -> list[str]:
    """Parts of ``x`` by 1x1 convolutions."""
    return [graph.conv("x", f"part_{i}", (size, 4, 1, 1)) for i, size in enumerate(sizes)]


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    steps=st.lists(st.sampled_from(["norm", "prelu", "max", "average"]), max_size=3),
    seed=st.integers(0, 2**31),
)
def test_is_the_same_function(sizes: list[int], steps: list[str], seed: int) -> None:
    graph, total = GraphOf((1, 4, 16, 16), seed), sum(sizes)
    value = graph.node("Concat", parts(graph, sizes), "joined", axis=1)
    for index, step in enumerate(steps):
        name = f"step_{index}"
        if step == "norm":
            value = graph.batch_norm(value, name, total)
        elif step == "prelu":
            value = graph.prelu(value, name, graph.random.uniform(-1, 2, total))
        else:
            kind = "MaxPool" if step == "max" else "AveragePool"
            shape = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]}
            value = graph.node(kind, [value], name, **shape)
    graph.conv(value, "y", (5, total, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    graph.conv(value, "z", (3, total, 1, 1))
    model = graph.model("y", "z")
    result, changed = applied(sink_concat, model)
    x = graph.random.normal(size=(1, 4, 16, 16)).astype(np.float32)
    assert_equal(model, result, x, 2e-6)
    assert "Concat" not in kinds(result) and len(changed) == 1
    assert kinds(result).count("Conv") == 3 * len(sizes)


def test_a_concat_that_ends_in_another_becomes_part_of_it() -> None:
    graph = GraphOf((1, 4, 8, 8))
    first = graph.node("Concat", parts(graph, [3, 5]), "first", axis=1)
    pooled = graph.node("MaxPool", [first], "pooled", kernel_shape=[2, 2], strides=[2, 2])
    other = graph.conv("x", "other", (2, 4, 2, 2), strides=[2, 2])
    both = graph.node("Concat", [other, pooled], "both", axis=1)
    graph.node("Relu", [both], "y")  # no pass knows what to do with it: this Concat stays
    model = graph.model("y")
    result, changed = applied(sink_concat, model)
    assert_equal(model, result, graph.random.normal(size=(1, 4, 8, 8)).astype(np.float32), 0)
    assert kinds(result).count("Concat") == 1 and len(changed) == 1


def test_a_concat_that_could_not_vanish_stays() -> None:
    """A sum of whole tensors reads it: the parts would have to be joined again."""
    graph = GraphOf((1, 4, 8, 8))
    joined = graph.node("Concat", parts(graph, [3, 5]), "joined", axis=1)
    normed = graph.batch_norm(joined, "normed", 8)
    graph.conv(normed, "y", (8, 8, 1, 1))
    graph.node("Add", ["y", normed], "z")
    model = graph.model("z")
    result, changed = applied(sink_concat, model)
    assert changed == [] and kinds(result) == kinds(model)
