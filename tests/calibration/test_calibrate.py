from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from calibration.calibrate import quantize, rounded_tensors
from calibration.calibration_file import Calibration
from calibration.collect import collect
from calibration.placements import PLACEMENTS
from calibration.ranges import METHODS, symmetric_range
from dabnet.data.images import SizedImage
from dabnet.errors import BuildError, InputError
from tests.support.calibration_net import (
    TRAIN,
    calibrate,
    images,
    initializers,
    make_model,
    named,
    seen,
    small_net,
    stem,
    subject,
)
from tests.support.listed_images import sized_image
from tests.support.protobuf_graphs import on_protobuf

collect = on_protobuf(collect)
quantize = on_protobuf(quantize)
rounded_tensors = on_protobuf(rounded_tensors)


def test_statistics_of_all_tensors_and_where_they_came_from() -> None:
    model = small_net()
    before = model.SerializeToString()
    found = seen(5, model)
    assert model.SerializeToString() == before
    assert found.images == {image.name: image.sha256 for image in named(5)}
    assert (found.dataset, found.split, found.subject) == ("toy", "train", subject(model))
    assert list(found.histograms) == rounded_tensors(model)
    assert set(found.histograms) == {"x", "c", "y", "d", "p", "m", "z"}
    expected = collect(model, images(5), list(found.histograms))
    assert found.histograms == expected


@pytest.mark.parametrize("stop", [1, 16, 17, 33])
def test_an_interrupted_run_goes_on_to_the_same_result(stop: int) -> None:
    """More images than are kept at a time; what was kept last is where it goes on."""
    whole = seen(40)
    kept: list[Calibration] = []

    def broken() -> Iterator[SizedImage]:
        yield from named(40)[:stop]
        raise KeyboardInterrupt

    model = small_net()
    with pytest.raises(KeyboardInterrupt):
        calibrate(model, broken(), subject(model), **TRAIN, keep=kept.append)
    before = kept[-1] if kept else None
    assert (len(before.images) if before else 0) == stop // 16 * 16
    steps: list[None] = []
    again = seen(40, before=before, progress=lambda: steps.append(None))
    assert again == whole
    assert len(steps) == 40 - stop // 16 * 16  # nothing is counted twice


def test_what_an_interrupted_run_left_must_be_of_these_images() -> None:
    before = seen(20)
    with pytest.raises(InputError, match=r"4 images of the interrupted run are not among these"):
        seen(16, before=before)
    other = small_net(seed=7)
    with pytest.raises(InputError, match="of another graph"):
        seen(20, other, before=before)


def test_a_fixed_batch_is_filled() -> None:
    model = small_net(batch=2)
    steps: list[None] = []
    found = seen(5, model, progress=lambda: steps.append(None))
    assert len(steps) == 4
    assert list(found.images) == [name for name, _ in images(4)]
    assert found.histograms == seen(4).histograms
    with pytest.raises(InputError, match="no calibration images to fill a batch of 2"):
        seen(1, model)


def test_the_same_picture_counts_once() -> None:
    model = small_net()
    twice = [*named(2), sized_image("copy", named(1)[0].image)]
    assert calibrate(model, twice, subject(model), **TRAIN) == seen(2)


def test_two_pictures_of_one_name_are_refused() -> None:
    model, (first, second) = small_net(), named(2)
    renamed = sized_image(first.name, second.image)
    with pytest.raises(InputError, match="two calibration images are called 'image_000'"):
        calibrate(model, [first, renamed], subject(model), **TRAIN)


def test_no_images() -> None:
    with pytest.raises(InputError, match="no calibration images"):
        seen(0)


@pytest.mark.parametrize("split", ["val", "test", "trainval", ""])
def test_the_images_that_are_scored_must_not_be_seen(split: str) -> None:
    def untouched() -> Iterator[SizedImage]:
        raise AssertionError("an image was read")
        yield

    model = small_net()
    with pytest.raises(InputError, match=f"split '{split}'; expected train or folder; calibr"):
        calibrate(model, untouched(), subject(model), dataset="toy", split=split)


@pytest.mark.parametrize("method", METHODS)
def test_the_scales_are_the_methods(method: str) -> None:
    found = seen(6)
    quantized, _ = quantize(small_net(), found.ranges(method))
    again, _ = quantize(small_net(), seen(6).ranges(method))
    assert quantized.SerializeToString() == again.SerializeToString()
    for tensor in ("x", "y"):
        expected = symmetric_range(found.histograms[tensor], method) / 127
        assert initializers(quantized)[f"{tensor}_scale"] == np.float32(expected)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_each_placement_runs_and_keeps_the_metadata(placement: str) -> None:
    ranges = seen(4).ranges("minmax")
    quantized, lines = quantize(small_net(), ranges, placement=placement)
    assert [(p.key, p.value) for p in quantized.metadata_props] == [("dabnet_manifest", "{}")]
    session = onnxruntime.InferenceSession(quantized.SerializeToString())
    assert np.isfinite(session.run(None, {"image": images(1)[0][1][None]})[0]).all()
    pairs = sum(node.op_type == "QuantizeLinear" for node in quantized.graph.node)
    assert pairs == {"conv-inputs": 3, "dense-only": 1, "tensorrt": 3, "all": 7}[placement]
    assert len(lines) >= pairs


def test_layers_left_in_float() -> None:
    ranges = seen(2).ranges("mse")
    quantized, lines = quantize(small_net(), ranges, float_layers=("first", "last"))
    assert [line.split(":")[0] for line in lines] == ["depthwise", "pointwise"]
    assert {"first.weight", "last.weight"} <= initializers(quantized).keys()
    with pytest.raises(InputError, match="no convolution is called 'conv9'; expected one of first"):
        quantize(small_net(), ranges, float_layers=("conv9",))
    layers = ("first", "depthwise", "pointwise", "last")
    with pytest.raises(BuildError, match="without a convolution to quantise"):
        quantize(small_net(), ranges, float_layers=layers)


def test_a_graph_without_convolutions() -> None:
    model = make_model([*stem(), helper.make_node("Relu", ["x"], ["logits"])], {})
    with pytest.raises(BuildError, match="without a convolution"):
        quantize(model, {"x": 1.0})
