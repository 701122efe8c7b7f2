"""The moments give the error that onnxruntime's own convolution of the rounded input has."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from calibration import conv_moments
from calibration.conv_moments import collect_moments, quantized_convs
from tests.support.calibration_net import exact_logits, images, make_model, small_net, stem
from tests.support.protobuf_graphs import insert_qdq, on_protobuf

collect_moments = on_protobuf(collect_moments)
quantized_convs = on_protobuf(quantized_convs)

IMAGES = images(3)


def one_conv(seed: int) -> onnx.ModelProto:
    """A convolution with random kernel, stride, dilation, pads and groups."""
    random = np.random.default_rng(seed)
    groups = int(random.choice([1, 3]))
    kernel = random.integers(1, 4, 2)
    shape = (3 * int(random.integers(1, 3)), 3 // groups, *kernel)
    attributes = {
        "group": groups,
        "strides": random.integers(1, 3, 2).tolist(),
        "dilations": random.integers(1, 3, 2).tolist(),
        "pads": random.integers(0, 3, 4).tolist(),
    }
    weights = {
        "w": random.standard_normal(shape).astype(np.float32),
        "b": random.standard_normal(shape[0]).astype(np.float32),
        "mean": np.array(128, np.float32),
    }
    centred = helper.make_node("Sub", ["x", "mean"], ["s"])
    conv = helper.make_node("Conv", ["s", "w", "b"], ["logits"], **attributes)
    return make_model([*stem(), centred, conv], weights)


def outputs(model: onnx.ModelProto) -> np.ndarray:
    """float64 (N, O, h, w)."""
    return exact_logits(model, np.stack([image for _, image in IMAGES])).astype(np.float64)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_squared_error_is_that_of_the_graph(seed: int) -> None:
    model = one_conv(seed)
    quantized, _ = insert_qdq(model, {"s": 100.0})  # clips on both sides
    error = np.square(outputs(model) - outputs(quantized)).sum(axis=(0, 2, 3))
    (conv,), lines = quantized_convs(model, quantized)
    assert lines == []
    (sums,) = collect_moments(model, [conv], IMAGES)
    constants = {i.name: numpy_helper.to_array(i) for i in quantized.graph.initializer}
    levels = conv.levels.reshape(len(error), -1)
    weights = np.column_stack([levels * conv.weight_scales[:, None], constants["b"]])
    found = sums.squared_error(weights.reshape(sums.fp32.shape).astype(np.float64))
    np.testing.assert_allclose(found.ravel(), error, rtol=1e-4)


def test_rows_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = one_conv(1)
    (conv,), _ = quantized_convs(model, insert_qdq(model, {"s": 128.0})[0])
    (whole,) = collect_moments(model, [conv], IMAGES)
    monkeypatch.setattr(conv_moments, "_CHUNK", 1)  # one row
    (by_row,) = collect_moments(model, [conv], IMAGES)
    for name in ("patches", "lacks", "squared_lack", "energy"):
        wanted = getattr(whole, name)
        np.testing.assert_allclose(getattr(by_row, name), wanted, atol=1e-5 * np.abs(wanted).max())


def test_two_runs_add_up_and_readers_of_one_tensor_are_kept_apart() -> None:
    model = small_net()
    quantized, _ = insert_qdq(model, {"x": 255.0, "y": 400.0})
    convs, _ = quantized_convs(model, quantized)
    assert [(conv.output, conv.tensor) for conv in convs] == [("c", "x"), ("d", "y"), ("p", "y")]
    together = collect_moments(model, convs, IMAGES)
    parts = [collect_moments(model, convs, part) for part in (IMAGES[:1], IMAGES[1:])]
    for whole, first, second in zip(together, *parts, strict=True):
        np.testing.assert_allclose(first.lacks + second.lacks, whole.lacks, rtol=1e-9)
    alone = collect_moments(model, convs[2:], IMAGES)
    np.testing.assert_array_equal(alone[0].patches, together[2].patches)


def test_other_forms_are_left_with_a_line() -> None:
    model = small_net()
    quantized, _ = insert_qdq(model, {"x": 255.0, "y": 400.0})
    by_name = {node.name: node for node in quantized.graph.node}
    by_name["first"].attribute.append(helper.make_attribute("auto_pad", "VALID"))
    by_name["pointwise"].output[0] = "unknown"
    convs, lines = quantized_convs(model, quantized)
    assert [conv.output for conv in convs] == ["d"]
    assert lines == [
        f"{name}: left, not a plain 2-D Conv of this graph" for name in ("first", "pointwise")
    ]


def test_weights_of_two_convolutions_are_left_with_a_line() -> None:
    nodes = [
        *stem(),
        helper.make_node("Conv", ["x", "w"], ["once"], name="one"),
        helper.make_node("Conv", ["once", "w"], ["logits"], name="two"),
    ]
    model = make_model(nodes, {"w": np.ones((3, 3, 1, 1), np.float32)})
    quantized, _ = insert_qdq(model, {"x": 255.0, "once": 600.0})
    assert quantized_convs(model, quantized)[0] == []
