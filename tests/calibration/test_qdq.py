from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from calibration.collect import collect
from calibration.placements import edges_of
from calibration.qdq import MIN_SCALE, quantize_weight
from calibration.ranges import symmetric_range
from dabnet.errors import BuildError
from tests.support.calibration_net import (
    SIZE,
    exact_logits,
    images,
    initializers,
    make_model,
    small_net,
    stem,
)
from tests.support.protobuf_graphs import conv_inputs, insert_qdq, on_protobuf

collect = on_protobuf(collect)
edges_of = on_protobuf(edges_of)

BATCH = np.stack([image for _, image in images(4)])
RANGES = {"x": 255.0, "y": 400.0, "z": 600.0}


def readers(model: onnx.ModelProto, tensor: str) -> list[str]:
    return sorted(node.op_type for node in model.graph.node if tensor in node.input)


def one_conv(weight: np.ndarray, **attributes: object) -> onnx.ModelProto:
    conv = helper.make_node("Conv", ["x", "w"], ["logits"], name="only", **attributes)
    return make_model([*stem(), conv], {"w": weight})


def test_conv_inputs_are_distinct_and_in_order() -> None:
    assert conv_inputs(small_net()) == ["x", "y", "z"]


def test_the_result_is_a_valid_model_and_the_original_is_untouched() -> None:
    model = small_net()
    before = model.SerializeToString()
    quantized, changed = insert_qdq(model, RANGES)
    assert model.SerializeToString() == before
    onnx.checker.check_model(quantized, full_check=True)  # sorted, typed, shapes inferred
    assert quantized.metadata_props == model.metadata_props
    assert quantized.opset_import == model.opset_import
    assert [o.name for o in quantized.graph.output] == ["logits"]
    assert [line.split(":")[0] for line in changed] == ["first", "depthwise", "pointwise", "last"]


def test_one_pair_per_tensor_and_only_convolutions_read_it() -> None:
    quantized, _ = insert_qdq(small_net(), RANGES)
    operators = Counter(node.op_type for node in quantized.graph.node)
    assert operators["QuantizeLinear"] == 3
    assert operators["DequantizeLinear"] == 3 + 4
    assert readers(quantized, "y") == ["MaxPool", "QuantizeLinear"]
    assert readers(quantized, "y_dequantized") == ["Conv", "Conv"]
    assert readers(quantized, "z") == ["QuantizeLinear"]
    concat = next(node for node in quantized.graph.node if node.op_type == "Concat")
    assert list(concat.input) == ["d", "p", "m"]


def test_types_of_the_constants() -> None:
    model = small_net()
    quantized, _ = insert_qdq(model, RANGES)
    constants = initializers(quantized)
    assert "first.weight" not in constants
    assert np.array_equal(constants["first.bias"], initializers(model)["first.bias"])
    for node in quantized.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale, zero = (constants[name] for name in node.input[1:])
        assert scale.dtype == np.float32
        assert (scale > 0).all()
        assert zero.dtype == np.int8
        assert zero.shape == scale.shape
        assert not zero.any()
        if node.input[0] in constants:
            weight = constants[node.input[0]]
            assert weight.dtype == np.int8
            assert weight.min() >= -127
            assert [(a.name, a.i) for a in node.attribute] == [("axis", 0)]
            assert scale.shape == (len(weight),)
        else:
            assert scale.shape == ()
    assert constants["x_scale"] == np.float32(255 / 127)


def test_output_is_close_to_the_float_network() -> None:
    model = small_net()
    histograms = collect(model, images(8, seed=5), conv_inputs(model))
    quantized, _ = insert_qdq(model, {n: symmetric_range(h) for n, h in histograms.items()})
    exact, approximate = exact_logits(model, BATCH), exact_logits(quantized, BATCH)
    noise = np.square(approximate - exact).mean() / np.square(exact).mean()
    assert 0 < noise < 10 ** (-30 / 10)  # at least 30 dB


def test_onnxruntime_agrees_with_the_reference_evaluator() -> None:
    quantized, _ = insert_qdq(small_net(), RANGES)
    # Its Q/DQ starts at opset 19, which means the same for int8 and FP32 scales.
    quantized.opset_import[0].version = 19
    expected = ReferenceEvaluator(quantized).run(None, {"image": BATCH})[0]
    np.testing.assert_allclose(exact_logits(quantized, BATCH), expected, rtol=1e-4, atol=1e-3)


def test_values_are_rounded_to_the_scale_and_saturate_at_the_range() -> None:
    model = one_conv(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1))
    quantized, _ = insert_qdq(model, {"x": 100.0})
    scale = np.float32(100 / 127)
    x = BATCH.transpose(0, 3, 1, 2).astype(np.float32)
    assert x.max() > 150
    expected = np.clip(np.rint(x / scale), -128, 127) * scale
    np.testing.assert_allclose(exact_logits(quantized, BATCH), expected, rtol=1e-6)
    assert exact_logits(quantized, BATCH).max() == pytest.approx(100)


def test_a_range_of_zero_gives_a_finite_result() -> None:
    quantized, _ = insert_qdq(small_net(), {**RANGES, "y": 0.0})
    assert initializers(quantized)["y_scale"] == np.float32(MIN_SCALE)
    assert np.isfinite(exact_logits(quantized, BATCH)).all()


def test_a_convolution_without_a_range_stays_float() -> None:
    quantized, changed = insert_qdq(small_net(), {"x": 255.0})
    assert len(changed) == 1
    assert readers(quantized, "y") == ["Conv", "Conv", "MaxPool"]
    assert "last.weight" in initializers(quantized)


def test_shared_weights_and_other_readers_of_them() -> None:
    weight = np.random.default_rng(0).standard_normal((3, 3, 1, 1)).astype(np.float32)
    nodes = [
        *stem(),
        helper.make_node("Conv", ["x", "w"], ["a"], name="a"),
        helper.make_node("Conv", ["a", "w"], ["b"], name="b"),
        helper.make_node("ConvTranspose", ["b", "w"], ["logits"], name="up"),
    ]
    model = make_model(nodes, {"w": weight})
    quantized, _ = insert_qdq(model, {"x": 255.0, "a": 500.0})
    onnx.checker.check_model(quantized, full_check=True)
    assert [i for i in initializers(quantized) if i.endswith("_quantized")] == ["w_quantized"]
    assert readers(quantized, "w_dequantized") == ["Conv", "Conv"]
    assert readers(quantized, "w") == ["ConvTranspose"]
    assert np.array_equal(initializers(quantized)["w"], weight)


def test_new_names_avoid_those_of_the_graph() -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["x_scale"], name="only")
    nodes = [*stem(), conv, helper.make_node("Relu", ["x_scale"], ["logits"])]
    model = make_model(nodes, {"w": np.ones((2, 3, 1, 1), np.float32)})
    quantized, _ = insert_qdq(model, {"x": 255.0})
    onnx.checker.check_model(quantized, full_check=True)
    assert "x_scale_2" in initializers(quantized)


weights = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=4, max_dims=4, max_side=4),
    elements=st.floats(-1000, 1000, width=32),
)


@settings(deadline=None)
@given(weights)
def test_weight_error_is_at_most_half_a_step_of_its_channel(weight) -> None:
    quantized, scales = quantize_weight(weight)
    assert quantized.dtype == np.int8
    assert quantized.min() >= -127
    assert scales.dtype == np.float32
    assert (scales > 0).all()
    steps = scales.astype(np.float64).reshape(-1, 1, 1, 1)
    assert (np.abs(quantized * steps - weight) <= steps * 0.5001).all()


def test_channels_of_zeros_and_of_very_different_size() -> None:
    weight = np.zeros((3, 2, 1, 1), np.float32)
    weight[1] = [[[1e-6]], [[-3e-6]]]
    weight[2] = [[[300.0]], [[10.0]]]
    quantized, scales = quantize_weight(weight)
    assert quantized[:, :, 0, 0].tolist() == [[0, 0], [42, -127], [127, 4]]
    np.testing.assert_allclose(scales, [MIN_SCALE, 3e-6 / 127, 300 / 127], rtol=1e-6)
    model, _ = insert_qdq(one_conv(weight[:, [0, 1, 1]]), {"x": 255.0})
    assert np.isfinite(exact_logits(model, BATCH)).all()


@pytest.mark.parametrize("threshold", [-1.0, float("nan"), float("inf")])
def test_impossible_ranges_are_refused(threshold) -> None:
    with pytest.raises(BuildError, match="of tensor 'y'; expected a finite number"):
        insert_qdq(small_net(), {"y": threshold})


def test_weights_that_are_no_constant_are_refused() -> None:
    identity = helper.make_node("Identity", ["w"], ["computed"])
    conv = helper.make_node("Conv", ["x", "computed"], ["logits"], name="only")
    model = make_model([*stem(), identity, conv], {"w": np.ones((2, 3, 1, 1), np.float32)})
    with pytest.raises(BuildError, match="'computed' of the convolution 'only' are not an init"):
        insert_qdq(model, {"x": 1.0})

    overridable = one_conv(np.ones((2, 3, 1, 1), np.float32))
    overridable.graph.input.append(
        helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 3, 1, 1])
    )
    with pytest.raises(BuildError, match="not an initializer"):
        insert_qdq(overridable, {"x": 1.0})


def test_quantising_twice_is_refused() -> None:
    once, _ = insert_qdq(small_net(), RANGES)
    with pytest.raises(BuildError, match="quantise it once"):
        insert_qdq(once, dict.fromkeys(conv_inputs(once), 1.0))


def test_weights_that_are_not_finite_or_not_float32_are_refused() -> None:
    with pytest.raises(BuildError, match="are NaN or Inf; expected finite float32"):
        insert_qdq(one_conv(np.full((2, 3, 1, 1), np.nan, np.float32)), {"x": 1.0})
    nodes = [
        helper.make_node("Cast", ["image"], ["nhwc"], to=TensorProto.FLOAT16),
        helper.make_node("Transpose", ["nhwc"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node("Cast", ["h"], ["logits"], to=TensorProto.FLOAT),
    ]
    half = make_model(nodes, {"w": np.ones((2, 3, 1, 1), np.float16)})
    with pytest.raises(BuildError, match="float16; expected finite float32"):
        insert_qdq(half, {"x": 1.0})


def test_an_old_opset_is_refused() -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["logits"])
    model = make_model([*stem(), conv], {"w": np.ones((2, 3, 1, 1), np.float32)}, opset=12)
    with pytest.raises(BuildError, match="opset 12; expected opset 13"):
        insert_qdq(model, {"x": 1.0})


def test_the_shape_of_the_result_is_known() -> None:
    quantized, _ = insert_qdq(small_net(), RANGES)
    assert exact_logits(quantized, BATCH).shape == (4, 5, *SIZE)


def joined(model: onnx.ModelProto, ranges: dict[str, float]) -> dict[str, float]:
    """Scale of what each input of the Concat, and the convolution behind it, reads; x 127."""
    quantized, _ = insert_qdq(model, ranges, edges_of(model, "all"))
    onnx.checker.check_model(quantized, full_check=True)
    constants, by_output = initializers(quantized), {n.output[0]: n for n in quantized.graph.node}
    found = {}
    for node in quantized.graph.node:
        if node.op_type == "Concat" or node.name == "last":
            for name in node.input:
                pair = by_output.get(name)
                if pair is None or pair.op_type != "DequantizeLinear" or pair.input[0] in constants:
                    continue  # float, or weights
                tensor = by_output[pair.input[0]].input[0]
                found[tensor] = 127 * float(constants[pair.input[1]])
    return found


WHOLE = {"x": 255.0, "c": 500.0, "y": 400.0, "d": 10.0, "p": 30.0, "m": 40.0, "z": 35.0}


def test_the_inputs_and_the_result_of_a_concat_share_one_scale() -> None:
    assert joined(small_net(), WHOLE) == pytest.approx({"d": 40.0, "p": 40.0, "m": 40.0, "z": 40.0})


def test_ranges_too_far_apart_leave_the_concat_in_float() -> None:
    """d is 4.1 times smaller than m: one scale would leave it less than 6 of its 8 bits."""
    far = {**WHOLE, "d": 40 / 4.1}
    assert joined(small_net(), far) == {}
    model = small_net()
    _, lines = insert_qdq(model, far, edges_of(model, "all"))
    assert [line for line in lines if "stays float" in line] == [
        "z stays float: its parts have ranges of ±9.76 to ±40, more than 4 times apart"
    ]
    quantized, lines = insert_qdq(model, far, edges_of(model))  # nor may the conv behind round it
    assert "last.weight" in initializers(quantized)
    assert [line.split(":")[0] for line in lines[1:]] == ["first", "depthwise", "pointwise"]


def test_a_tensor_with_two_scales_has_two_pairs() -> None:
    """A convolution reads c with its own scale, the Concat with the one it shares with x."""
    nodes = [
        *stem(),
        helper.make_node("Conv", ["x", "w"], ["c"], name="first"),
        helper.make_node("Concat", ["c", "x"], ["z"], axis=1),
        helper.make_node("Conv", ["c", "w"], ["d"], name="second"),
        helper.make_node("Concat", ["z", "d"], ["logits"], axis=1),
    ]
    model = make_model(nodes, {"w": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)})
    ranges = {"x": 255.0, "c": 100.0, "z": 255.0, "d": 100.0}
    quantized, _ = insert_qdq(model, ranges, edges_of(model, "all"))
    # onnxruntime refuses two nodes of one name.
    assert exact_logits(quantized, BATCH).shape == (4, 9, *SIZE)
    scales = [
        127 * float(initializers(quantized)[node.input[1]])
        for node in quantized.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] == "c"
    ]
    assert sorted(scales) == pytest.approx([100.0, 255.0])


def test_an_edge_without_a_range_is_refused() -> None:
    with pytest.raises(BuildError, match="no range for 'y'; expected one for each tensor"):
        insert_qdq(small_net(), {"x": 1.0}, edges_of(small_net()))


@settings(deadline=None)
@given(weights)
def test_half_scales_are_fp16_numbers_that_clip_nothing(weight) -> None:
    quantized, scales = quantize_weight(weight, half_scales=True)
    assert np.array_equal(scales.astype(np.float16).astype(np.float32), scales)
    assert (scales >= np.float32(2.0**-24)).all()
    steps = scales.astype(np.float64).reshape(-1, 1, 1, 1)
    assert (np.abs(quantized * steps - weight) <= steps * 0.5001).all()
    whole = quantize_weight(weight)[1]
    large = whole > 2.0**-14  # FP16's normal numbers
    assert (scales[large] <= whole[large] * (1 + 2.0**-10)).all()
