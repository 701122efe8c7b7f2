"""A graph node by node: the values of the graph as written, and no tensor longer than needed."""

from __future__ import annotations

import weakref

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from dabnet.errors import BuildError
from dabnet.graph.execution import Stepwise
from tests.support.calibration_net import SIZE, images, make_model, small_net, stem
from tests.support.contract_graph import contract_model
from tests.support.protobuf_graphs import stepwise

ALL = ["x", "c", "y", "d", "p", "m", "z", "l", "logits"]
IMAGE = images(1)[0][1][None]
FEEDS = {"image": IMAGE}


def graph(model: onnx.ModelProto, names: list[str]) -> Stepwise:
    return Stepwise(ir.from_proto(model), names)


def at_once(
    model: onnx.ModelProto, names: list[str], feeds: dict[str, np.ndarray], optimised: bool = False
) -> list[np.ndarray]:
    """The tensors by one session over the whole graph."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {output.name for output in model.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in present)
    options = onnxruntime.SessionOptions()
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    cpu = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=cpu)
    return list(session.run(names, feeds))


def test_values_are_those_of_the_unoptimised_graph() -> None:
    model = small_net()
    before = model.SerializeToString()
    found = stepwise(model, FEEDS, ALL)
    assert model.SerializeToString() == before
    assert list(found) == ALL
    for name, expected in zip(ALL, at_once(model, ALL, FEEDS), strict=True):
        assert np.array_equal(found[name], expected), name


@pytest.mark.parametrize(
    "slopes", [(0.25, 1.7, -0.3), (0.25, -2, 1), (0, -2, 1), (np.inf, np.nan, 0.1)]
)
def test_prelu_is_onnxruntimes_for_every_value(slopes) -> None:
    """Of either sign, 0, tiny, huge, Inf and NaN."""
    nodes = [
        *stem(),
        helper.make_node("Sub", ["x", "middle"], ["centred"]),
        helper.make_node("Mul", ["centred", "few"], ["small"]),
        helper.make_node("Div", ["small", "divisors"], ["wild"]),
        helper.make_node("PRelu", ["wild", "slopes"], ["logits"]),
    ]
    divisors = np.resize(np.float32([1, 0, -1e-30, 1e30, -0.0]), SIZE)
    constants = {
        "middle": np.float32(IMAGE[0, 0, 0, 0]).reshape(()),
        "few": np.float32(0.37).reshape(()),
        "divisors": divisors,
        "slopes": np.float32(slopes).reshape(3, 1, 1),
    }
    model = make_model(nodes, constants)
    (expected,) = at_once(model, ["logits"], FEEDS)
    assert {np.isnan(expected).any(), np.isinf(expected).any(), (expected < 0).any()} == {True}
    found = stepwise(model, FEEDS)["logits"]
    assert np.array_equal(found, expected, equal_nan=True)


def test_a_tensor_is_let_go_after_its_last_reader() -> None:
    """y feeds d, p and m, and nothing after them; c feeds y alone."""
    alive: dict[str, weakref.ref[np.ndarray]] = {}
    still = {}
    for name, values in graph(small_net(), ALL).run(FEEDS):
        alive[name] = weakref.ref(values)
        del values
        still[name] = {known for known, reference in alive.items() if reference() is not None}
    assert still["d"] == {"y", "d"}
    assert still["m"] == {"y", "d", "p", "m"}
    assert still["z"] == {"d", "p", "m", "z"}
    assert still["logits"] == {"l", "logits"}


def test_only_what_is_needed_runs(monkeypatch) -> None:
    operators = []
    original = onnxruntime.InferenceSession

    def spy(model: bytes, options: onnxruntime.SessionOptions, **more: object) -> object:
        operators.append(onnx.load_from_string(model).graph.node[-1].op_type)
        level = options.graph_optimization_level
        assert level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        assert options.intra_op_num_threads == 1
        return original(model, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    found = list(graph(small_net(), ["p"]).run(FEEDS))
    assert [name for name, _ in found] == ["p"]
    assert operators == ["Cast", "Transpose", "Conv", "Max", "Conv"]  # PReLU ends in a Max


def test_constants_repeated_inputs_and_unread_outputs() -> None:
    nodes = [
        *stem(),
        helper.make_node("Constant", [], ["two"], value_float=2.0),
        helper.make_node("Mul", ["x", "two"], ["doubled"]),
        helper.make_node("Add", ["doubled", "doubled"], ["sum"]),
        helper.make_node("Clip", ["sum", "", "top"], ["clipped"]),
        helper.make_node("Split", ["clipped", "sizes"], ["first", "rest"], axis=1),
        helper.make_node("Identity", ["first"], ["logits"]),
    ]
    constants = {"top": np.array(500, np.float32), "sizes": np.array([1, 2])}
    model = make_model(nodes, constants)
    found = stepwise(model, FEEDS, ["logits", "sum"])
    image = IMAGE.astype(np.float32).transpose(0, 3, 1, 2)
    assert np.array_equal(found["sum"], 4 * image)
    assert np.array_equal(found["logits"], np.minimum(4 * image, 500)[:, :1])

    run = graph(model, ["rest", "logits"]).run(FEEDS)
    rest = weakref.ref(next(run)[1])
    assert next(run)[0] == "logits"
    assert rest() is None  # no node reads it


def test_a_subgraph_is_refused() -> None:
    def branch(name: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node("Neg", ["x"], [name])], name, [], [output])

    nodes = [
        *stem(),
        helper.make_node(
            "If",
            ["yes"],
            ["logits"],
            name="choice",
            then_branch=branch("a"),
            else_branch=branch("b"),
        ),
    ]
    model = make_model(nodes, {"yes": np.array(True)})
    with pytest.raises(BuildError, match=r"node 'choice' \(If\) has a subgraph"):
        graph(model, ["logits"])
    assert list(stepwise(model, FEEDS, ["x"])) == ["x"]


def test_stepwise_is_the_same_in_fp32() -> None:
    model = contract_model()
    names = [node.output[0] for node in model.graph.node]
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 64, 3), dtype=np.uint8)
    feeds = {"image": image}
    found = stepwise(model, feeds, names)
    expected_values = at_once(model, names, feeds, optimised=True)
    assert list(found) == names
    for (name, values), expected in zip(found.items(), expected_values, strict=True):
        assert values.dtype == expected.dtype
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-3, err_msg=name)
    assert np.array_equal(stepwise(model, feeds)[names[-1]], found[names[-1]])


def overflowing() -> onnx.ModelProto:
    """x · 300 · 0.01 in FP16, of any length."""
    nodes = [
        helper.make_node("Mul", ["x", "up"], ["m"]),
        helper.make_node("PRelu", ["m", "slope"], ["p"]),
        helper.make_node("Mul", ["p", "down"], ["y"]),
    ]
    kinds = {"up": 300.0, "slope": 0.5, "down": 0.01}
    graph = helper.make_graph(
        nodes,
        "overflow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["N"])],
        [numpy_helper.from_array(np.float16(v), name) for name, v in kinds.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_an_overflow_that_one_session_hides_is_seen() -> None:
    model, x = overflowing(), np.array([300, 1, -300], np.float16)
    # If this fails, onnxruntime rounds between nodes now, and FP16 needs no run node by node.
    assert np.isfinite(at_once(model, ["y"], {"x": x}, optimised=True)[0]).all()
    both = graph(model, ["p", "y"])
    assert dict(both.run({"x": x}))["y"].tolist() == [np.inf, np.float16(3.0), -np.inf]
    assert dict(both.run({"x": x[1:2]}))["p"].tolist() == [300]  # another shape


def test_an_unknown_tensor_is_refused() -> None:
    with pytest.raises(BuildError, match="computes no tensor 'z'"):
        stepwise(overflowing(), {"x": np.ones(1, np.float16)}, ["z"])
