"""scale_image: the same bits, and one range for what a Concat joins."""

from __future__ import annotations

import numpy as np

from export.passes.scale_image import scale_image
from tests.support.pass_graphs import GraphOf, applied, kinds, run


def joined_image(graph: GraphOf, absorbed: bool) -> str:
    """DABNet's pooled image at two scales, each joined with features, then normalised or not."""
    pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    half = graph.node("AveragePool", ["x"], "half", **pool)
    quarter = graph.node("AveragePool", [half], "quarter", **pool)
    stem = graph.conv("x", "stem", (5, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    joined = graph.node("Concat", [stem, half], "joined", axis=1)
    if not absorbed:
        return graph.node("Relu", [joined], "y")
    down = graph.conv(
        graph.batch_norm(joined, "normed", 8), "down", (4, 8, 3, 3), strides=[2, 2], pads=[1] * 4
    )
    both = graph.node("Concat", [quarter, down], "both", axis=1)
    return graph.batch_norm(both, "y", 7)


def test_scale_image_gives_the_same_bits_and_one_range() -> None:
    graph = GraphOf((1, 3, 16, 16))
    model = graph.model(joined_image(graph, absorbed=True), "joined")
    model.graph.output.pop()  # an output of the network could not be scaled
    result, changed = applied(scale_image, model)
    x = 150 * graph.random.uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32)
    assert np.array_equal(run(result, x)[0], run(model, x)[0])
    assert len(changed) == 1 and kinds(result).count("Mul") == 1
    result.graph.output.append(type(model.graph.output[0])(name="joined"))
    largest = np.abs(run(result, x)[1][:, 5:]).max()  # the pooled image's channels
    assert largest < 150 / 32


def test_scale_image_stays_away_where_nothing_takes_it_back() -> None:
    graph = GraphOf((1, 3, 16, 16))
    model = graph.model(joined_image(graph, absorbed=False))
    assert applied(scale_image, model)[1] == []
