"""FP32 → FP16: equal within FP16's rounding, finite where a plain cast overflows, valid ONNX."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from calibration.collect import largest_activations
from dabnet.errors import BuildError
from export.passes.float16 import to_float16
from tests.support.contract_graph import contract_model
from tests.support.float16_graphs import (
    SIZE,
    all_tensors,
    converted,
    image_model,
    kinds,
    loud,
    model,
    networks,
    not_finite,
    relative_error,
    types,
)
from tests.support.protobuf_graphs import on_protobuf, stepwise

largest_activations = on_protobuf(largest_activations)


def output(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    (values,) = stepwise(model, feeds).values()
    return values


FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
node = helper.make_node


def noise(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (1, *SIZE, 3), dtype=np.uint8)


# --- random networks --------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(networks(), st.integers(0, 100))
def test_random_networks_keep_their_result_and_stay_finite(
    source: onnx.ModelProto, seed: int
) -> None:
    image = noise(seed)
    expected = all_tensors(source, image)[0]
    largest = largest_activations(source, [("noise", image)])
    made, _ = converted(source, largest)
    actual = all_tensors(made, image)[0]
    assert not_finite(actual) == []
    assert relative_error(actual["y"], expected["y"]) < 0.01
    plain, _ = converted(source)  # the same without the ranges
    halves = [name for name, kind in types(plain).items() if kind == HALF]
    if any(largest.get(name, 0.0) > 66_000 for name in halves):
        assert not_finite(all_tensors(plain, image)[0])


# --- what stays FP32 --------------------------------------------------------------------------


def test_only_what_overflows_stays_fp32() -> None:
    source, image = loud(), noise()
    largest = largest_activations(source, [("noise", image)])
    assert largest["b"] > 65504 > largest["d"]
    made, lines = converted(source, largest)
    wrote = kinds(made)
    assert [wrote[name] for name in ("loud", "prelu", "quiet")] == [FLOAT] * 3
    assert [wrote[name] for name in ("transpose", "first", "add", "last")] == [HALF] * 4
    # One cast down to each FP16 reader's tensor, one up; the skip reads the FP16 tensor itself.
    casts = [(n.input[0], n.output[0]) for n in made.graph.node if n.op_type == "Cast"]
    assert casts[1:-1] == [("a", "a_fp32"), ("d", "d_fp16")]
    assert lines[0] == "5 nodes in FP16, 3 in FP32, 3 casts between"
    assert lines[1] == f"loud stays FP32: b reaches {largest['b']:.6g} > 32752"
    assert [line.split(" stays")[0] for line in lines[1:]] == ["loud", "prelu", "quiet"]

    mask = output(source, {"image": image})
    assert not_finite(all_tensors(made, image)[0]) == []
    assert (output(made, {"image": image}) == mask).mean() > 0.98
    plain, _ = converted(source)
    assert set(not_finite(all_tensors(plain, image)[0])) >= {"b", "c", "d", "e", "f"}
    # onnxruntime takes the types it is given, and casts for itself where it has no FP16 kernel.
    cpu = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=cpu)
    assert (session.run(None, {"image": image})[0] == mask).mean() > 0.98


def test_half_of_the_range_is_left_to_other_images() -> None:
    source = loud(1.0)
    for reached, kept in ((32_700.0, False), (32_800.0, True)):
        lines = converted(source, {"b": reached})[1]
        assert any("loud stays FP32" in line for line in lines) == kept
    assert "loud stays FP32: b reaches 1e-05 only" in converted(source, {"b": 1e-5})[1][1]


@pytest.mark.parametrize(
    ("factor", "reason"),
    [
        (np.float32(81230), "factor reaches 81230 > 65504"),
        (np.array([1e-7, 2e-8, 3e-8], np.float32), "factor would lose .* % of its norm"),
        (np.array([1.0, 2e-8, 1e-6], np.float32), ""),  # the small ones do not count beside 1
        (np.float32(np.inf), ""),  # it is infinite in FP32 too
        (np.float32(65504), ""),
    ],
)
def test_constants_that_do_not_survive_the_cast(factor: NDArray[np.float32], reason: str) -> None:
    nodes = [
        node("Relu", ["x"], ["a"], name="relu"),
        node("Mul", ["a", "factor"], ["b"], name="mul"),
        node("Relu", ["b"], ["y"], name="last"),
    ]
    shaped = np.asarray(factor).reshape(-1, 1, 1)
    made, lines = converted(image_model(nodes, {"factor": shaped}))
    wrote = kinds(made)
    assert (wrote["relu"], wrote["mul"]) == (HALF, FLOAT if reason else HALF)
    if reason:
        assert len(lines) == 2
        assert re.match(f"mul stays FP32: {reason}", lines[1])


def test_normalisation_stays_fp32_and_pixels_are_cast_once() -> None:
    mean = np.array([72.3924, 82.90902, 73.158325], np.float32).reshape(3, 1, 1)
    nodes = [
        node("Sub", ["x", "mean"], ["centred"], name="sub"),
        node("Mul", ["centred", "scale"], ["normal"], name="mul"),
        node("Relu", ["normal"], ["a"], name="relu"),
        node("Concat", ["a", "x"], ["y"], name="concat", axis=1),
    ]
    weights = {"mean": mean, "scale": np.full((3, 1, 1), 0.017, np.float32)}
    source, image = image_model(nodes, weights), noise()
    made, _ = converted(source)
    wrote = kinds(made)
    assert [wrote[name] for name in ("sub", "mul", "relu", "concat")] == [FLOAT, FLOAT, HALF, HALF]
    exact = (image.astype(np.float64).transpose(0, 3, 1, 2) - mean) * np.float32(0.017)
    tensors = all_tensors(made, image)[0]
    half = np.maximum(exact, 0).astype(np.float32).astype(np.float16)
    assert np.array_equal(tensors["a"], half)  # one rounding, of the exact value
    assert np.array_equal(tensors["y"][:, 3:], image.transpose(0, 3, 1, 2))


# --- BatchNormalization -----------------------------------------------------------------------


@pytest.mark.parametrize("variance", [28_899.0, 9e5])
def test_batch_norm_is_folded_before_the_cast(variance: float) -> None:
    """9e5 is Inf in FP16, and an Inf variance would make the output a constant."""
    parts = {
        "gamma": np.array([1.5, -0.5, 1.0]),
        "beta": np.array([0.5, 2.0, -1.0]),
        "mean": np.array([130.0, 90.0, -40.0]),
        "var": np.array([variance, 12.0, 400.0]),
    }
    nodes = [
        node("Relu", ["x"], ["a"], name="relu"),
        node("BatchNormalization", ["a", *parts], ["b"], name="norm", epsilon=1e-3),
        node("Relu", ["b"], ["y"], name="last"),
    ]
    weights = {name: values.astype(np.float32) for name, values in parts.items()}
    image = noise()
    made, lines = converted(image_model(nodes, weights))
    assert lines[1:] == ["norm: BatchNormalization folded into Mul and Add"]
    assert set(kinds(made).values()) == {TensorProto.FLOAT, HALF}  # FLOAT is the border's
    columns = {name: values.reshape(3, 1, 1) for name, values in parts.items()}
    x = image.astype(np.float64).transpose(0, 3, 1, 2)
    normal = (x - columns["mean"]) / np.sqrt(columns["var"] + 1e-3)
    expected = np.maximum(normal * columns["gamma"] + columns["beta"], 0)
    actual = all_tensors(made, image)[0]["y"]
    for channel in range(3):
        assert relative_error(actual[:, channel], expected[:, channel]) < 2e-3


def test_a_batch_norm_that_is_not_constant_keeps_fp32_statistics() -> None:
    inputs = [helper.make_tensor_value_info("x", FLOAT, [1, 3, 4, 4])]
    inputs += [helper.make_tensor_value_info(name, FLOAT, [3]) for name in "gbmv"]
    nodes = [node("BatchNormalization", ["x", *"gbmv"], ["y"], name="norm")]
    made, _ = converted(model(nodes, {}, inputs, {"y": FLOAT}))
    known = types(made)
    (norm,) = (item for item in made.graph.node if item.op_type == "BatchNormalization")
    assert [known[name] for name in norm.input] == [HALF, FLOAT, FLOAT, FLOAT, FLOAT]


# --- other graphs -----------------------------------------------------------------------------


def test_float_inputs_and_outputs_keep_type_and_name() -> None:
    nodes = [
        node("Relu", ["image"], ["features"], name="relu"),
        node("Conv", ["features", "w"], ["logits"], name="conv"),
        node("ArgMax", ["logits"], ["mask"], name="argmax", axis=1),
    ]
    weights = {"w": np.random.default_rng(0).standard_normal((5, 3, 1, 1)).astype(np.float32)}
    inputs = [helper.make_tensor_value_info("image", FLOAT, ["N", 3, "H", "W"])]
    outputs = {"logits": FLOAT, "mask": TensorProto.INT64, "features": FLOAT}
    source = model(nodes, weights, inputs, outputs)
    made, _ = converted(source)
    assert types(made)["w"] == HALF  # under its own name, and once
    assert Counter(kinds(made).values()) == {HALF: 3, FLOAT: 2, TensorProto.INT64: 1}
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 6)).astype(np.float32) * 50
    found = [stepwise(m, {"image": x}) for m in (made, source)]
    actual, expected = ([tensors[o.name] for o in source.graph.output] for tensors in found)
    assert [values.dtype for values in actual] == [np.float32, np.int64, np.float32]
    assert relative_error(actual[0], expected[0]) < 1e-3


def test_operators_with_types_of_their_own() -> None:
    """Parameters that have a fixed type, types in attributes, and nodes without a float output."""
    weights = {
        "scales": np.array([1, 1, 2, 2], np.float32),
        "roi": np.zeros(8, np.float32),
        "low": np.float32(-3.5),
        "big": np.full((3, 1, 1), 1e5, np.float32),
        "shape": np.array([1, 3, *(2 * side for side in SIZE)]),
        "ratio": np.float32(0.5),
    }
    filled = numpy_helper.from_array(np.array([0.75], np.float32))
    nodes = [
        node("Constant", [], ["two"], name="constant", value_float=2.0),
        node("Div", ["x", "two"], ["h"], name="normalise"),
        node("Relu", ["h"], ["a"], name="relu"),
        node("Resize", ["a", "roi", "scales"], ["b"], name="resize", mode="linear"),
        node("Clip", ["b", "low", "two"], ["c"], name="clip"),
        node("ConstantOfShape", ["shape"], ["d"], name="fill", value=filled),
        node("Mul", ["d", "two"], ["e"], name="shared"),
        node("Mul", ["b", "big"], ["f"], name="too_big"),
        node("Div", ["f", "two"], ["g"], name="shared_fp32_or_16"),
        node("Greater", ["c", "e"], ["more"], name="greater"),
        node("Where", ["more", "c", "g"], ["k"], name="where"),
        node("Dropout", ["k", "ratio"], ["l"], name="dropout"),
        node("Cast", ["l"], ["whole"], name="to_int", to=TensorProto.INT32),
        node("Cast", ["whole"], ["m"], name="from_int", to=FLOAT),
        node("Cast", ["m"], ["n"], name="no_cast", to=FLOAT),
        node("RandomNormalLike", ["n"], ["random"], name="random", dtype=FLOAT),
        node("Mul", ["random", "zero"], ["silent"], name="silent"),
        node("Sum", ["n", "e", "silent"], ["y"], name="sum"),
    ]
    weights["zero"] = np.float32(0)
    source, image = image_model(nodes, weights), noise()
    largest = largest_activations(source, [("noise", image)])
    made, lines = converted(source, largest)
    known, wrote = types(made), kinds(made)
    assert (known["scales"], known["roi"], known["ratio"]) == (FLOAT, FLOAT, FLOAT)
    assert (known["two"], known["two_fp16"]) == (FLOAT, HALF)  # both kinds of reader
    halves = ("relu", "resize", "clip", "fill", "shared")
    assert [wrote[name] for name in halves] == [HALF] * len(halves)
    singles = ("normalise", "too_big", "shared_fp32_or_16", "where", "random")
    assert [wrote[name] for name in singles] == [FLOAT] * len(singles)
    assert "no_cast" not in wrote
    assert "random stays FP32: RandomNormalLike has no known FP16 form at opset 17" in lines
    expected = all_tensors(source, image)[0]["y"]
    assert relative_error(all_tensors(made, image)[0]["y"], expected) < 2e-3


def test_a_graph_of_which_nothing_fits_is_refused() -> None:
    with pytest.raises(BuildError, match="no node .* can become FP16 .*reaches") as caught:
        to_float16(ir.from_proto(loud()), largest=dict.fromkeys("xabcdef", 1e6))
    assert "\n" not in str(caught.value)


def test_graphs_that_are_refused() -> None:
    with pytest.raises(BuildError, match="of type FLOAT16; expected a plain FP32 graph"):
        to_float16(ir.from_proto(contract_model("fp16")))
    once = converted(loud())[0]
    with pytest.raises(BuildError, match="of type FLOAT16"):
        to_float16(ir.from_proto(once))
    branch = helper.make_graph(
        [node("Relu", ["x"], ["r"])],
        "branch",
        [],
        [helper.make_tensor_value_info("r", FLOAT, None)],
    )
    flag = {"flag": np.array(True)}
    source = image_model(
        [node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)], flag
    )
    with pytest.raises(BuildError, match="control flow"):
        to_float16(ir.from_proto(source))


def test_an_int32_mask_stays_int32() -> None:
    source = contract_model("fp32", "int32")
    made, _ = converted(source)
    image = np.random.default_rng(1).integers(0, 256, (1, 32, 64, 3), dtype=np.uint8)
    masks = [output(m, {"image": image}) for m in (source, made)]
    assert masks[1].dtype == np.int32 and (masks[0] == masks[1]).mean() > 0.98
