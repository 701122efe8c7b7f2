"""FP16 on the shipped network, and engines that TensorRT-RTX builds from it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from calibration.collect import largest_activations
from dabnet.data.images import calibration_source, images_or_scenes
from export.spec import ExportSpec
from tests.support import ROOT
from tests.support.contract_graph import contract_model
from tests.support.float16_graphs import (
    all_tensors,
    converted,
    kinds,
    layers_of,
    loud,
    not_finite,
    types,
)
from tests.support.protobuf_graphs import on_protobuf, stepwise

largest_activations = on_protobuf(largest_activations)


def output(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    (values,) = stepwise(model, feeds).values()
    return values


FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
WEIGHTS = ROOT / "weights" / "dabnet_toy_street.pth"
STREET = (128, 256)  # height, width of the toy street images


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    """The contract graph of the shipped toy street weights."""
    torch = pytest.importorskip("torch")
    from dabnet.checkpoint import load_checkpoint
    from dabnet.models.image_to_mask import ImageToMask
    from export.onnx_export import contract_graph

    torch.set_num_threads(1)
    checkpoint = load_checkpoint(WEIGHTS, None)
    module = ImageToMask(checkpoint.network(), checkpoint.preprocessing, torch.uint8).eval()
    return ir.to_proto(contract_graph(module, ExportSpec(STREET)))


@pytest.fixture(scope="module")
def largest_on_train(network: onnx.ModelProto) -> dict[str, float]:
    images = [(i.name, i.image) for i in calibration_source("toy-street", None, 2, STREET)]
    return largest_activations(network, images)


def agreement(made: onnx.ModelProto, source: onnx.ModelProto) -> float:
    """Mean share of equal pixels on validation images; each tensor of ``made`` must be finite."""
    reference = onnxruntime.InferenceSession(
        source.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    images = [item.image[None] for item in images_or_scenes("toy-street", "val", None, 2, STREET)]
    shares = []
    for image, tensors in zip(images, all_tensors(made, *images), strict=True):
        expected = reference.run(None, {"image": image})[0]
        assert not_finite(tensors) == []
        assert tensors["mask"].dtype == np.uint8
        shares.append((tensors["mask"] == expected).mean())
    return float(np.mean(shares))


def test_dabnet_in_fp16(
    network: onnx.ModelProto, largest_on_train: dict[str, float], tmp_path: Path
) -> None:
    made, lines = converted(network, largest_on_train)
    before = Counter(item.op_type for item in network.graph.node)
    after = Counter(item.op_type for item in made.graph.node)
    norms = before["BatchNormalization"]
    assert norms == 22 == sum("folded into Mul and Add" in line for line in lines)
    assert (after["BatchNormalization"], after["Mul"], after["Add"]) == (0, 22, before["Add"] + 22)
    assert after["Cast"] == before["Cast"] + 1  # behind the normalisation
    assert [line for line in lines if " stays FP32" in line] == [
        "/Transpose stays FP32: all around it is FP32",
        "/Sub stays FP32: it normalises the image",
    ]
    assert agreement(made, network) >= 0.999
    pytest.importorskip("tensorrt_rtx")
    layers = layers_of(made, "fp16", tmp_path)
    assert layers["Half"] >= 60 and "Float" not in layers  # each convolution at least


def test_dabnet_whose_activations_overflow(network: onnx.ModelProto) -> None:
    """Two convolutions scaled by 2**15 and back: the same network, and Inf in plain FP16."""
    source = onnx.ModelProto()
    source.CopyFrom(network)
    constants = {item.name: item for item in source.graph.initializer}
    first, second = [item for item in source.graph.node if item.op_type == "Conv"][:2]
    for name, factor in (
        (first.input[1], 2.0**15),
        (first.input[2], 2.0**15),
        (second.input[1], 2.0**-15),
    ):
        scaled = numpy_helper.to_array(constants[name]) * np.float32(factor)
        constants[name].CopyFrom(numpy_helper.from_array(scaled, name))
    images = [(i.name, i.image) for i in calibration_source("toy-street", None, 2, STREET)]
    largest = largest_activations(source, images)
    assert largest[first.output[0]] > 65504

    made, lines = converted(source, largest)
    kept = [line for line in lines if "reaches" in line]
    assert [line.split(" stays")[0] for line in kept][:2] == [first.name, kept[1].split(" ")[0]]
    assert len(kept) == 3  # the two convolutions and the PReLU between them
    assert agreement(made, source) >= 0.999
    image = images_or_scenes("toy-street", "val", None, 1, STREET)[0].image
    plain, _ = converted(source)
    assert len(not_finite(all_tensors(plain, image[None])[0])) > 100


# --- others, built ---------------------------------------------------------------------------


def test_tensorrt_builds_mixed_precision(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    made, _ = converted(loud(), {"b": 1e5, "c": 1e5})
    layers = layers_of(made, "fp16", tmp_path)
    assert layers["Half"] >= 2 and layers["Float"] >= 1  # "first" and "last", and "loud" or "quiet"


def test_a_quantised_graph_becomes_int8_and_fp16(tmp_path: Path) -> None:
    source = contract_model("int8")
    image = np.random.default_rng(2).integers(0, 256, (1, 32, 64, 3), dtype=np.uint8)
    made, lines = converted(source)
    wrote, known = kinds(made), types(made)
    for item in made.graph.node:
        if item.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert known[item.input[1]] == FLOAT  # opset 17 has no other scale
    assert [wrote[name] for name in ("first", "second", "third")] == [FLOAT] * 3
    assert [wrote[name] for name in ("active", "sum", "logits")] == [HALF] * 3
    assert "first stays FP32: it reads a dequantised tensor" in lines
    masks = [output(m, {"image": image}) for m in (source, made)]
    assert (masks[0] == masks[1]).mean() > 0.97
    pytest.importorskip("tensorrt_rtx")
    assert layers_of(made, "int8", tmp_path)["Int8"] == 4  # each convolution, as before
