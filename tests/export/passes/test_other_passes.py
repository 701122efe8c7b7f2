"""The small passes: bytes_first, scale_image."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from export.passes.bytes_first import bytes_first
from export.passes.scale_image import scale_image
from tests.support.pass_graphs import GraphOf, applied, kinds, run


def test_bytes_first_moves_bytes_and_changes_nothing() -> None:
    graph = GraphOf((2, 8, 16, 3), kind=TensorProto.UINT8)
    graph.node("Cast", ["x"], "real", to=TensorProto.FLOAT)
    graph.node("Transpose", ["real"], "planes", perm=[0, 3, 1, 2])
    graph.node("Sub", ["planes", graph.constant(np.full((1, 3, 1, 1), 7.5))], "y")
    model = graph.model("y")
    result, changed = applied(bytes_first, model)
    assert kinds(result) == ["Transpose", "Cast", "Sub"] and len(changed) == 1
    x = graph.random.integers(0, 256, (2, 8, 16, 3), dtype=np.uint8)
    assert np.array_equal(run(result, x)[0], run(model, x)[0])


def test_bytes_first_leaves_a_cast_with_another_reader() -> None:
    graph = GraphOf((2, 8, 16, 3), kind=TensorProto.UINT8)
    graph.node("Cast", ["x"], "real", to=TensorProto.FLOAT)
    graph.node("Transpose", ["real"], "planes", perm=[0, 3, 1, 2])
    _, changed = applied(bytes_first, graph.model("planes", "real"))
    assert changed == []


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
