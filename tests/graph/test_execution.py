"""Values of a graph's tensors: the largest in FP32, and each one rounded to its type."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.collect import largest_activations
from dabnet.errors import BuildError, InputError
from dabnet.graph.execution import Stepwise
from tests.support.contract_graph import contract_model
from tests.support.protobuf_graphs import on_protobuf, stepwise

largest_activations = on_protobuf(largest_activations)


def images(count: int) -> list[tuple[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [
        (f"noise {index}", random.integers(0, 256, (32, 64, 3), dtype=np.uint8))
        for index in range(count)
    ]


def run_at_once(model: onnx.ModelProto, names: list[str], feeds: dict) -> list[np.ndarray]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {output.name for output in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
    session = onnxruntime.InferenceSession(
        copy.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(names, feeds)


def test_largest_activations_are_those_of_all_images() -> None:
    model = contract_model()
    largest = largest_activations(model, images(3))
    floats = [n.output[0] for n in model.graph.node if n.op_type not in ("ArgMax",)][:-1]
    assert sorted(largest) == sorted(floats)
    for name in floats:
        reached = [
            np.abs(run_at_once(model, [name], {"image": image[None]})[0]).max()
            for _, image in images(3)
        ]
        assert largest[name] == pytest.approx(max(reached), rel=1e-5)
    assert largest["real"] == 255
    with pytest.raises(InputError, match="no images"):
        largest_activations(model, [])


def test_stepwise_is_the_same_in_fp32() -> None:
    model = contract_model()
    names = [node.output[0] for node in model.graph.node]
    feeds = {"image": images(1)[0][1][None]}
    found = stepwise(model, feeds, names)
    at_once = run_at_once(model, names, feeds)
    assert list(found) == names
    for (name, values), expected in zip(found.items(), at_once, strict=True):
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
    assert np.isfinite(run_at_once(model, ["y"], {"x": x})[0]).all()
    graph = Stepwise(ir.from_proto(model), ["p", "y"])
    assert dict(graph.run({"x": x}))["y"].tolist() == [np.inf, np.float16(3.0), -np.inf]
    assert dict(graph.run({"x": x[1:2]}))["p"].tolist() == [300]  # another shape


def test_an_unknown_tensor_is_refused() -> None:
    with pytest.raises(BuildError, match="computes no tensor 'z'"):
        stepwise(overflowing(), {"x": np.ones(1, np.float16)}, ["z"])
