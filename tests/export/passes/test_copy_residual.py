"""Copies before an addition: none where nothing is overwritten, one where something is."""

from __future__ import annotations

import numpy as np

from export.passes.copy_residual import copy_residual
from tests.support.pass_graphs import GraphOf, applied, kinds, run

SHAPE = (1, 16, 6, 8)


def residual(read_again: bool) -> GraphOf:
    """``y = conv(x) + conv(conv(x))``; ``read_again`` has something else read what is added."""
    graph = GraphOf(SHAPE)
    graph.conv("x", "stem", (16, 16, 1, 1))
    graph.conv("stem", "branch", (16, 16, 1, 1))
    graph.node("Add", ["branch", "stem"], "sum")
    graph.conv("sum", "after", (16, 16, 1, 1))
    if read_again:
        graph.conv("stem", "aside", (16, 16, 1, 1))
        graph.node("Mul", ["after", "aside"], "y")
    else:
        graph.node("Relu", ["after"], "y")
    return graph


def test_what_is_read_later_is_copied() -> None:
    graph = residual(read_again=True)
    model = graph.model("y")
    result, changed = applied(copy_residual, model)
    assert len(changed) == 1 and kinds(result).count("Conv") == kinds(model).count("Conv") + 1
    (copy,) = [n for n in result.graph.node if n.op_type == "Conv" and "copy" in n.name]
    (add,) = [n for n in result.graph.node if n.op_type == "Add"]
    assert copy.input[0] == "stem" and list(add.input) == ["branch", copy.output[0]]
    x = graph.random.normal(size=SHAPE).astype(np.float32)
    assert np.array_equal(run(result, x)[0], run(model, x)[0])


def test_what_was_read_before_is_not() -> None:
    """``branch`` reads the residual too, and the sum cannot be made before it."""
    model = residual(read_again=False).model("y")
    result, changed = applied(copy_residual, model)
    assert changed == [] and kinds(result) == kinds(model)


def test_a_sum_without_a_convolution_is_left_alone() -> None:
    graph = GraphOf(SHAPE)
    graph.node("Relu", ["x"], "positive")
    graph.node("Sigmoid", ["x"], "share")
    graph.node("Add", ["positive", "share"], "sum")
    graph.node("Mul", ["sum", "positive"], "y")
    assert applied(copy_residual, graph.model("y"))[1] == []
