"""Channels of one range: the network is the same, and int8 loses less of it."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from calibration.collect import collect, collect_channels
from calibration.equalize import equalize
from calibration.qdq import conv_inputs, insert_qdq
from calibration.ranges import symmetric_range
from dabnet.errors import InputError
from tests.support.calibration_net import images, make_model, small_net, stem

IMAGES = images(6)
BATCH = np.stack([image for _, image in IMAGES])


def run(model: onnx.ModelProto) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"image": BATCH})[0].astype(np.float64)


def uneven_net(seed: int) -> onnx.ModelProto:
    """x → first → PReLU y → depthwise → PReLU d → last, channels 1 to 1000 times as large; y[3]
    is always 0."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    sizes = np.geomspace(1, 1000, 8, dtype=np.float32)
    first = normal(8, 3, 3, 3) / 64 * sizes[:, None, None, None]
    bias = normal(8) * sizes
    first[3], bias[3] = 0, 0
    weights = {
        "first.weight": first,
        "first.bias": bias,
        "slope": random.uniform(-0.5, 0.5, (8, 1, 1)).astype(np.float32),
        "depthwise.weight": normal(8, 1, 3, 3),
        "last.weight": normal(4, 8, 1, 1) / sizes[:, None, None],
    }
    nodes = [
        *stem(),
        helper.make_node("Conv", ["x", "first.weight", "first.bias"], ["c"], name="first"),
        helper.make_node("PRelu", ["c", "slope"], ["y"]),
        helper.make_node("Conv", ["y", "depthwise.weight"], ["e"], name="depthwise", group=8),
        helper.make_node("PRelu", ["e", "slope"], ["d"]),
        helper.make_node("Conv", ["d", "last.weight"], ["logits"], name="last"),
    ]
    return make_model(nodes, weights)


def spread(model: onnx.ModelProto, tensor: str) -> float:
    """The largest channel's range over the smallest one's, without channels that are always 0."""
    channels = collect_channels(model, IMAGES, [tensor])[tensor].channels
    ranges = [symmetric_range(channel, "percentile") for channel in channels]
    return max(ranges) / min(r for r in ranges if r > 0)


def test_channels_have_one_range_and_the_output_is_the_same() -> None:
    model = uneven_net(0)
    with np.errstate(all="raise"):  # y[3] is divided by nothing
        equal, lines = equalize(model, IMAGES)
    for tensor in ("y", "d"):
        assert spread(model, tensor) > 50
        assert spread(equal, tensor) < 1.01
    np.testing.assert_allclose(run(equal), run(model), rtol=1e-4, atol=1e-3)
    assert [line.split(":")[0] for line in lines] == ["y", "d", "x"]
    assert lines[-1] == "x: left, no Conv or BatchNormalization before it"


@pytest.mark.parametrize("seed", range(4))
def test_int8_loses_less(seed: int) -> None:
    def lost(model: onnx.ModelProto) -> float:
        ranges = {
            name: symmetric_range(histogram)
            for name, histogram in collect(model, IMAGES, conv_inputs(model)).items()
        }
        return float(np.square(run(insert_qdq(model, ranges)[0]) - wanted).mean())

    model = uneven_net(seed)
    wanted = run(model)
    assert lost(equalize(model, IMAGES)[0]) < lost(model) / 2


def test_a_tensor_that_others_read_too_is_left_with_a_line() -> None:
    # small_net's z joins y with others before it feeds a Conv, and y is in it through a pool.
    model = small_net()
    equal, lines = equalize(model, IMAGES)
    assert equal == model
    assert len(lines) == 3
    assert "y: left, a Concat before last" in lines


def test_no_images_are_refused() -> None:
    with pytest.raises(InputError, match="no images to equalise with"):
        equalize(uneven_net(0), [])
