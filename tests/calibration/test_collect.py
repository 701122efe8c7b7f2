from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Iterator

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from calibration.collect import collect
from calibration.histogram import StreamingHistogram
from dabnet.errors import BuildError, InputError, MissingPackage
from tests.support.calibration_net import SIZE, images, make_model, small_net, stem
from tests.support.protobuf_graphs import on_protobuf

collect = on_protobuf(collect)

TENSORS = ["x", "y", "z"]


def test_histograms_are_those_of_the_tensors() -> None:
    model = small_net()
    before = model.SerializeToString()
    found = collect(model, images(3), TENSORS)
    assert model.SerializeToString() == before
    assert list(found) == TENSORS
    expected = StreamingHistogram()
    for _, image in images(3):
        expected.update(image.astype(np.float32))
    assert found["x"] == expected
    assert found["z"].count == 3 * 20 * SIZE[0] * SIZE[1]


def test_an_output_can_be_collected_too_and_repeated_names_count_once() -> None:
    model = small_net()
    name, image = images(1)[0]
    found = collect(model, [(name, image)], ["logits", "y", "logits"])
    session = onnxruntime.InferenceSession(model.SerializeToString())
    expected = StreamingHistogram()
    expected.update(session.run(None, {"image": image[None]})[0])
    assert list(found) == ["logits", "y"]
    assert found["logits"].count == expected.count
    assert found["logits"].maximum == pytest.approx(expected.maximum, rel=1e-5)


@pytest.mark.parametrize("model_batch", ["N", 1, 2])
def test_batch_split_and_order_do_not_matter(model_batch) -> None:
    named = images(6)
    stacked = np.stack([image for _, image in named])
    model = small_net(batch=model_batch)
    one_by_one = collect(small_net(), named, TENSORS)
    pairs = [(f"batch {i}", stacked[i : i + 2]) for i in (4, 0, 2)]
    assert collect(model, pairs, TENSORS) == one_by_one
    assert collect(model, [("all", stacked)], TENSORS) == one_by_one


@pytest.mark.parametrize("threads", [1, 3, None])
def test_threads_do_not_matter(threads) -> None:
    named = images(7)
    assert collect(small_net(), named, TENSORS, threads=threads) == collect(
        small_net(), named[::-1], TENSORS, threads=2
    )


@pytest.mark.parametrize("threads", [1, 3])
def test_memory_does_not_grow_with_the_number_of_images(threads) -> None:
    alive = []

    def stream() -> Iterator[tuple[str, np.ndarray]]:
        references: list[weakref.ref[np.ndarray]] = []
        for name, image in images(12):
            copy = image.copy()
            references.append(weakref.ref(copy))
            yield name, copy
            del copy
            gc.collect()
            alive.append(sum(reference() is not None for reference in references))

    found = collect(small_net(), stream(), TENSORS, threads=threads)
    assert max(alive) <= threads + 1  # one that each thread works on, and the next
    assert all(h.counts.nbytes == 16_384 for h in found.values())


@pytest.mark.parametrize("threads", [1, 3])
def test_one_image_is_read_ahead_of_those_that_run(threads) -> None:
    read: list[str] = []
    ahead: list[int] = []

    def stream() -> Iterator[tuple[str, np.ndarray]]:
        for name, image in images(9):
            read.append(name)
            yield name, image

    def progress() -> None:
        ahead.append(len(read) - len(ahead) - 1)

    collect(small_net(), stream(), ["x"], threads=threads, progress=progress)
    assert max(ahead) == threads + 1
    assert len(ahead) == 9


def test_progress_is_told_of_each_image() -> None:
    steps: list[None] = []
    collect(small_net(), images(2), ["x"], progress=lambda: steps.append(None))
    assert len(steps) == 2


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "Inf")])
def test_a_bad_activation_names_tensor_and_image(value, kind) -> None:
    """The fault: an image that starts with 255 makes y not finite, through a Div by 255 - x."""
    nodes = [
        *stem(),
        helper.make_node("Sub", ["top", "x"], ["gap"]),
        helper.make_node("Div", ["numerator", "gap"], ["y"]),
        helper.make_node("Conv", ["y", "w"], ["logits"], name="only"),
    ]
    weights = {
        "top": np.float32(255.0).reshape(1),
        "numerator": np.float32([0.0 if kind == "NaN" else 1.0]),
        "w": np.ones((1, 3, 1, 1), np.float32),
    }
    model = make_model(nodes, weights)
    good, bad = np.zeros((2, *SIZE, 3), np.uint8)
    bad[3, 4, 1] = 255
    stream = [("good.png", good), ("bad.png", bad), ("worse.png", bad), ("none.png", bad[:0])]
    for threads in (1, 4):
        with pytest.raises(BuildError, match=f"{kind} in tensor 'y' on image 'bad.png'"):
            collect(model, stream, ["x", "y"], threads=threads)


def test_an_error_of_the_images_stops_the_threads() -> None:
    def stream() -> Iterator[tuple[str, np.ndarray]]:
        yield from images(3)
        raise OSError("disk gone")

    before = set(threading.enumerate())  # other tests of this process may have left theirs
    with pytest.raises(OSError, match="disk gone"):
        collect(small_net(), stream(), TENSORS, threads=2)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((*SIZE, 3), np.float32),
        np.zeros((SIZE[1], SIZE[0], 3), np.uint8),
        np.zeros((3, *SIZE), np.uint8),
        np.zeros(SIZE, np.uint8),
        np.zeros((0, *SIZE, 3), np.uint8),
    ],
)
def test_an_image_that_does_not_fit_is_named(bad) -> None:
    with pytest.raises(InputError, match=r"image 'bad\.png' is .* expected uint8 \('N', 12, 16"):
        collect(small_net(), [("bad.png", bad)], ["x"])


def test_an_incomplete_fixed_batch_is_refused() -> None:
    with pytest.raises(InputError, match="image_000"):
        collect(small_net(batch=2), images(1), ["x"])


def test_unknown_and_integer_tensors_are_refused() -> None:
    with pytest.raises(BuildError, match="no tensor 'w'"):
        collect(small_net(), images(1), ["w"])
    nodes = [
        *stem(),
        helper.make_node("ArgMax", ["x"], ["index"], axis=1),
        helper.make_node("Cast", ["index"], ["logits"], to=TensorProto.FLOAT),
    ]
    with pytest.raises(BuildError, match=r"tensor 'index' is tensor\(int64\)"):
        collect(make_model(nodes, {}), images(1), ["index"])


def test_a_graph_with_another_input_is_refused() -> None:
    model = small_net()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT8
    with pytest.raises(InputError, match="expected one input, uint8"):
        collect(model, images(1), ["x"])


def test_onnxruntime_missing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackage, match=r"'onnxruntime' is not installed; .*\[cpu\]"):
        collect(small_net(), images(1), ["x"])
