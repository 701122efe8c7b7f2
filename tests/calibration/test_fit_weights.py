"""Fitted weights never do worse than the nearest ones on the images that they were fitted to."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from calibration.calibrate import quantize
from calibration.collect import collect
from calibration.fit_weights import fit_weights, with_weights
from calibration.ranges import symmetric_range
from dabnet.errors import BuildError, InputError
from tests.support.calibration_net import (
    exact_logits,
    images,
    initializers,
    make_model,
    seen,
    small_net,
    stem,
)
from tests.support.protobuf_graphs import (
    conv_inputs,
    insert_qdq,
    on_protobuf,
    with_fitted_weights,
)

collect = on_protobuf(collect)
quantize = on_protobuf(quantize)
with_weights = on_protobuf(with_weights)

IMAGES = images(6)
BATCH = np.stack([image for _, image in IMAGES])


def run(model: onnx.ModelProto) -> np.ndarray:
    """float64 (N, O, h, w)."""
    return exact_logits(model, BATCH).astype(np.float64)


def quantized(model: onnx.ModelProto) -> onnx.ModelProto:
    histograms = collect(model, IMAGES, conv_inputs(model))
    return insert_qdq(model, {name: symmetric_range(h) for name, h in histograms.items()})[0]


def one_conv(seed: int, group: int = 1, bias: bool = True) -> onnx.ModelProto:
    """A 3×3 convolution of the image, whose neighbouring pixels are alike."""
    random = np.random.default_rng(seed)
    weights = {"w": random.standard_normal((6, 3 // group, 3, 3)).astype(np.float32)}
    if bias:
        weights["b"] = random.standard_normal(6).astype(np.float32)
    conv = helper.make_node("Conv", ["x", *weights], ["logits"], name="only", group=group)
    return make_model([*stem(), conv], weights)


def int8_weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {n: a for n, a in initializers(model).items() if a.dtype == np.int8 and a.ndim == 4}


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3]), st.booleans())
def test_no_channel_is_worse_than_by_nearest_rounding(seed: int, group: int, bias: bool) -> None:
    model = one_conv(seed, group, bias)
    nearest = quantized(model)
    fitted, (line,) = with_fitted_weights(model, nearest, IMAGES)
    onnx.checker.check_model(fitted, full_check=True)
    before, after = (np.square(run(m) - run(model)).mean(axis=(0, 2, 3)) for m in (nearest, fitted))
    assert (after <= before * (1 + 1e-4)).all()
    assert after.sum() < before.sum()
    decibels = 10 * np.log10(np.square(run(model)).mean(axis=(0, 2, 3)).sum() / after.sum())
    assert line.startswith("only: ")
    assert float(line.split()[-2]) == pytest.approx(decibels, abs=0.1)


@pytest.mark.parametrize("bias", [True, False])
def test_the_mean_error_becomes_zero(bias: bool) -> None:
    # A range that clips the bright pixels: nearest rounding leaves a large mean error.
    model = one_conv(0, bias=bias)
    clipped, _ = insert_qdq(model, {"x": 200.0})
    fitted, _ = with_fitted_weights(model, clipped, IMAGES)
    before, after = (run(m) - run(model) for m in (clipped, fitted))
    assert np.abs(before.mean(axis=(0, 2, 3))).max() > 0.3 * before.std()
    assert np.abs(after.mean(axis=(0, 2, 3))).max() < 1e-3 * after.std()


def test_errors_of_like_inputs_cancel() -> None:
    # Three equal channels. The first weight sets the scale to 1; the others are half a level, which
    # the nearest levels make 0 and 0: short of one input in the sum. 1 and 0 would be exact.
    weight = np.array([127, 0.49, 0.49], np.float32).reshape(1, 3, 1, 1)
    grey = helper.make_node("Concat", ["r", "r", "r"], ["g"], axis=1)
    red = helper.make_node("Slice", ["x", "start", "end", "axis"], ["r"])
    conv = helper.make_node("Conv", ["g", "w"], ["logits"], name="only")
    bounds = {"start": [0], "end": [1], "axis": [1]}
    weights = {"w": weight, **{name: np.array(v, np.int64) for name, v in bounds.items()}}
    model = make_model([*stem(), red, grey, conv], weights)
    nearest, _ = insert_qdq(model, {"g": 254.0})
    (levels,) = int8_weights(nearest).values()
    assert levels.ravel().tolist() == [127, 0, 0]
    (levels,) = int8_weights(with_fitted_weights(model, nearest, IMAGES)[0]).values()
    assert levels.sum() == 128


def test_an_input_that_never_changes_leaves_no_error() -> None:
    model = one_conv(0)
    grey = [("grey", np.full_like(BATCH[0], 77))]
    fitted, _ = with_fitted_weights(model, insert_qdq(model, {"x": 255.0})[0], grey)
    session = onnxruntime.InferenceSession(fitted.SerializeToString())
    wanted = onnxruntime.InferenceSession(model.SerializeToString())
    feed = {"image": grey[0][1][None]}
    np.testing.assert_allclose(session.run(None, feed)[0], wanted.run(None, feed)[0], rtol=1e-4)


def test_scales_activations_and_the_models_given_stay_as_they_are() -> None:
    model = small_net()
    nearest = quantized(model)
    bytes_before = model.SerializeToString(), nearest.SerializeToString()
    fitted, lines = with_fitted_weights(model, nearest, IMAGES)
    assert (model.SerializeToString(), nearest.SerializeToString()) == bytes_before
    assert [line.split(":")[0] for line in lines] == ["first", "depthwise", "pointwise", "last"]
    old, new = ({i.name: i for i in m.graph.initializer} for m in (nearest, fitted))
    changed = {name for name in old if name in new and old[name] != new[name]}
    assert changed == int8_weights(nearest).keys()
    assert all(len(n.input) == 3 for n in fitted.graph.node if n.op_type == "Conv")
    read = {name for node in fitted.graph.node for name in node.input}
    assert new.keys() <= read


def test_a_convolution_is_fitted_the_same_whatever_others_are() -> None:
    model = small_net()
    every = with_fitted_weights(model, quantized(model), IMAGES)[0]
    ranges = {"y": symmetric_range(collect(model, IMAGES, ["y"])["y"])}
    few = int8_weights(with_fitted_weights(model, insert_qdq(model, ranges)[0], IMAGES)[0])
    assert len(few) == 2
    for name, levels in few.items():
        np.testing.assert_array_equal(levels, int8_weights(every)[name])


def test_no_images_and_infinite_activations_are_refused() -> None:
    model = one_conv(0)
    nearest = quantized(model)
    with pytest.raises(InputError, match="no images to fit weights to"):
        with_fitted_weights(model, nearest, [])
    weights = next(i for i in model.graph.initializer if i.name == "w")
    weights.CopyFrom(numpy_helper.from_array(np.full((6, 3, 3, 3), 3e38, np.float32), "w"))
    with pytest.raises(BuildError, match="NaN or Inf before 'logits'"):
        with_fitted_weights(model, nearest, IMAGES)


def test_layers_in_float_change_no_other_fit() -> None:
    """Weights fitted once serve each choice of float layers, to the last bit."""
    model, ranges = small_net(), seen(6).ranges("mse")
    everything, _ = quantize(model, ranges)
    fits, _ = fit_weights(ir.from_proto(model), ir.from_proto(everything), images(6))
    assert with_weights(everything, fits).SerializeToString() != everything.SerializeToString()
    for layers in (("first",), ("depthwise", "last"), ()):
        fewer, _ = quantize(model, ranges, float_layers=layers)
        before = fewer.SerializeToString()
        expected, _ = with_fitted_weights(model, fewer, images(6))
        found = with_weights(fewer, fits)
        assert fewer.SerializeToString() == before
        assert constants(found) == constants(expected)
        assert [list(node.input) for node in found.graph.node] == [
            list(node.input) for node in expected.graph.node
        ]


def constants(model: onnx.ModelProto) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in initializers(model).items()}
