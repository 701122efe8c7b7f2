from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from calibration_net import images, make_model, small_net, stem
from onnx import helper, numpy_helper

from calibration.calibrate import quantize
from calibration.collect import collect
from calibration.ranges import METHODS, symmetric_range
from dabnet.errors import BuildError, InputError

TRAIN = {"dataset": "toy", "split": "train"}


def test_an_int8_model_and_where_it_came_from() -> None:
    model = small_net()
    before = model.SerializeToString()
    quantized, info = quantize(model, iter(images(5)), **TRAIN)
    assert model.SerializeToString() == before
    assert (info.method, info.dataset, info.split, info.images) == ("mse", "toy", "train", 5)
    assert len(bytes.fromhex(info.images_sha256)) == 32
    assert sum(node.op_type == "QuantizeLinear" for node in quantized.graph.node) == 3
    session = onnxruntime.InferenceSession(quantized.SerializeToString())
    assert np.isfinite(session.run(None, {"image": images(1)[0][1][None]})[0]).all()


@pytest.mark.parametrize("method", METHODS)
def test_it_is_deterministic(method) -> None:
    runs = [quantize(small_net(), images(3), method=method, **TRAIN) for _ in range(2)]
    assert runs[0][0].SerializeToString() == runs[1][0].SerializeToString()
    assert runs[0][1] == runs[1][1]


@pytest.mark.parametrize("method", METHODS)
def test_the_scales_are_the_methods(method) -> None:
    quantized, _ = quantize(small_net(), images(6), method=method, **TRAIN)
    constants = {i.name: numpy_helper.to_array(i) for i in quantized.graph.initializer}
    for tensor, histogram in collect(small_net(), images(6), ["x", "y", "z"]).items():
        expected = symmetric_range(histogram, method) / 127
        assert constants[f"{tensor}_scale"] == np.float32(expected)


def test_the_hash_sees_names_pixels_and_order() -> None:
    def hash_of(named: list[tuple[str, np.ndarray]]) -> str:
        return quantize(small_net(), named, **TRAIN)[1].images_sha256

    named = images(2)
    brighter = named[1][1].copy()
    brighter[0, 0, 0] ^= 1
    hashes = {
        hash_of(named),
        hash_of(named[::-1]),
        hash_of(named[:1]),
        hash_of([named[0], ("renamed", named[1][1])]),
        hash_of([named[0], (named[1][0], brighter)]),
    }
    assert len(hashes) == 5
    strided = [(name, np.asfortranarray(image)) for name, image in named]
    assert hash_of(strided) == hash_of(named)


def test_images_in_a_batch_are_counted() -> None:
    stacked = np.stack([image for _, image in images(4)])
    _, info = quantize(small_net(), [("first", stacked[:3]), ("second", stacked[3])], **TRAIN)
    assert info.images == 4


def test_no_images() -> None:
    with pytest.raises(InputError, match="no calibration images"):
        quantize(small_net(), [], **TRAIN)


@pytest.mark.parametrize("split", ["val", "test", "trainval", ""])
def test_the_images_that_are_scored_must_not_be_seen(split) -> None:
    def untouched() -> object:
        raise AssertionError("an image was read")
        yield

    with pytest.raises(InputError, match=f"split '{split}'; expected train; calibration must not"):
        quantize(small_net(), untouched(), dataset="toy", split=split)


def test_unknown_method() -> None:
    with pytest.raises(InputError, match="unknown calibration method 'max'"):
        quantize(small_net(), images(1), method="max", **TRAIN)


def test_a_graph_without_convolutions() -> None:
    model = make_model([*stem(), helper.make_node("Relu", ["x"], ["logits"])], {})
    with pytest.raises(BuildError, match="without a convolution"):
        quantize(model, images(1), **TRAIN)


def test_metadata_is_kept() -> None:
    quantized, _ = quantize(small_net(), images(1), **TRAIN)
    assert [(p.key, p.value) for p in quantized.metadata_props] == [("dabnet_manifest", "{}")]
    onnx.checker.check_model(quantized, full_check=True)
