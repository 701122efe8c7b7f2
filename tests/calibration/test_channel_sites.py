"""Factors moved through a graph leave what it computes, to the bit where they are powers of two."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from calibration.channel_sites import ScalableGraph
from calibration.qdq import conv_inputs
from dabnet.checkpoint import load_checkpoint
from export.float_graph import float_graph
from export.spec import ExportSpec
from tests.support.calibration_net import images, make_model, small_net, stem
from tests.support.seeded_checkpoint import SIZE, write_checkpoint

BATCH = np.stack([image for _, image in images(2)])


def run(model: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"image": BATCH})[0]


def branching_net(seed: int) -> onnx.ModelProto:
    """Producers and readers of each kind, PReLU slopes below 0, in 0…1 and above 1.

    x → first → PReLU y → {grouped, depthwise} → Concat with pooled y → BN → PReLU v → last; the
    two BatchNormalizations share their γ and variance.
    """
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    weights = {
        "first.weight": normal(8, 3, 3, 3) / 64,
        "first.bias": normal(8),
        "y.slope": random.uniform(-1.5, 2.5, (8, 1, 1)).astype(np.float32),
        "grouped.weight": normal(4, 4, 3, 3),
        "grouped.bias": normal(4),
        "depthwise.weight": normal(16, 1, 1, 3),
        "gamma": normal(28),
        "beta": normal(28),
        "mean": normal(28),
        "variance": random.uniform(0.5, 2, 28).astype(np.float32),
        "v.slope": random.uniform(-1.5, 2.5, (28, 1, 1)).astype(np.float32),
        "last.weight": normal(5, 28, 1, 1),
    }
    norm = ["gamma", "beta", "mean", "variance"]
    nodes = [
        *stem(),
        helper.make_node(
            "Conv", ["x", "first.weight", "first.bias"], ["c"], name="first", pads=[1] * 4
        ),
        helper.make_node("PRelu", ["c", "y.slope"], ["y"]),
        helper.make_node(
            "Conv", ["y", "grouped.weight", "grouped.bias"], ["g"], group=2, pads=[1] * 4
        ),
        helper.make_node("Conv", ["y", "depthwise.weight"], ["d"], group=8, pads=[0, 1, 0, 1]),
        helper.make_node("MaxPool", ["y"], ["m"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Concat", ["g", "d", "m"], ["z"], axis=1),
        helper.make_node("BatchNormalization", ["z", *norm], ["n"], epsilon=1e-3),
        helper.make_node("LeakyRelu", ["n"], ["r"], alpha=0.1),
        helper.make_node("AveragePool", ["r"], ["a"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["a", *norm], ["u"], epsilon=1e-3),
        helper.make_node("PRelu", ["u", "v.slope"], ["v"]),
        helper.make_node("Conv", ["v", "last.weight"], ["logits"]),
    ]
    return make_model(nodes, weights)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_powers_of_two_change_no_bit_of_the_output(seed: int) -> None:
    model = branching_net(seed)
    graph = ScalableGraph(model)
    assert [site.conv_inputs for site in graph.sites] == [("y",), ("v",)]
    assert graph.obstacles == {"x": "no Conv or BatchNormalization before it"}
    random = np.random.default_rng(seed)
    for site in graph.sites:
        graph.scale(site, 2.0 ** random.integers(-8, 9, site.channels))
    assert np.array_equal(run(graph.model), run(model))
    # Weights and bias of first, the input channels of its readers; γ and μ of the first norm, which
    # has constants of its own now; γ and β of the second; the input channels of last.
    changed = {("c", 1), ("c", 2), ("g", 1), ("d", 1), ("n", 1), ("n", 3), ("u", 1), ("u", 2)}
    assert differing_constants(model, graph.model) == changed | {("logits", 1)}


def differing_constants(a: onnx.ModelProto, b: onnx.ModelProto) -> set[tuple[str, int]]:
    """(a node's output, index of its input) of each constant that a node reads otherwise in b."""
    values = [{i.name: numpy_helper.to_array(i) for i in m.graph.initializer} for m in (a, b)]
    return {
        (node.output[0], index)
        for node, other in zip(a.graph.node, b.graph.node, strict=True)
        for index, (name, now) in enumerate(zip(node.input, other.input, strict=True))
        if name in values[0] and not np.array_equal(values[0][name], values[1][now])
    }


def test_the_model_is_not_modified() -> None:
    model = branching_net(0)
    before = model.SerializeToString()
    graph = ScalableGraph(model)
    graph.scale(graph.sites[0], np.full(8, 3.0))
    assert model.SerializeToString() == before
    np.testing.assert_allclose(run(graph.model), run(model), rtol=1e-3, atol=1e-3)


def conv(name: str, reads: str, writes: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [reads, f"{name}.weight"], [writes], name=name)


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([conv("b", "y", "p"), helper.make_node("Add", ["p", "y"], ["logits"], name="sum")],
         "sum (Add) reads it too"),
        ([helper.make_node("Sigmoid", ["y"], ["s"], name="bend"), conv("b", "y", "p"),
          helper.make_node("Mul", ["p", "s"], ["logits"], name="gate")],
         "bend (Sigmoid) reads it too"),
        ([helper.make_node("Concat", ["y", "x"], ["z"], axis=1), conv("wide", "z", "logits")],
         "a Concat before wide"),
        ([helper.make_node("PRelu", ["x", "y"], ["q"], name="slope"), conv("b", "y", "p"),
          helper.make_node("Add", ["p", "q"], ["logits"])],
         "slope (PRelu) reads it too"),
        ([helper.make_node("Relu", ["w"], ["made"]),
          helper.make_node("Conv", ["y", "made"], ["logits"], name="computed")],
         "weights of computed that are not float32 constants"),
    ],
)  # fmt: skip
def test_a_reader_that_cannot_take_a_factor_back_is_an_obstacle(
    nodes: list[onnx.NodeProto], why: str
) -> None:
    weights = {
        "a.weight": np.ones((3, 3, 1, 1), np.float32),
        "b.weight": np.ones((3, 3, 1, 1), np.float32),
        "wide.weight": np.ones((3, 6, 1, 1), np.float32),
        "w": np.ones((3, 3, 1, 1), np.float32),
    }
    model = make_model([*stem(), conv("a", "x", "y"), *nodes], weights)
    graph = ScalableGraph(model)
    assert graph.sites == []
    assert why in graph.obstacles.values()


def test_an_output_and_weights_from_outside_are_obstacles() -> None:
    model = small_net()
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    assert ScalableGraph(model).obstacles["y"] == "y is an output of the graph"
    model = small_net()
    model.graph.input.append(
        helper.make_tensor_value_info("first.weight", TensorProto.FLOAT, [8, 3, 3, 3])
    )
    why = "weights of first that are not float32 constants"
    assert ScalableGraph(model).obstacles["y"] == why


def test_every_conv_of_dabnet_but_the_first_reads_scalable_channels(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    checkpoint = load_checkpoint(write_checkpoint(tmp_path_factory.mktemp("sites")))
    for target in ("portable", "tensorrt", "ort-cpu"):
        model = float_graph(checkpoint, ExportSpec(SIZE, "int8", optimize_for=target)).model
        graph = ScalableGraph(model)
        scalable = [name for site in graph.sites for name in site.conv_inputs]
        image = conv_inputs(model)[0]
        assert list(graph.obstacles) == [image]
        assert sorted([image, *scalable]) == sorted(conv_inputs(model))
