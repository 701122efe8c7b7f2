"""Ranges that were trained reach the right tensors, and the graph computes what was trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.ranges import ranges_by_tensor
from dabnet.errors import ArtifactError
from dabnet.head import LOGITS
from dabnet.models.image_to_mask import ImageToMask
from dabnet.training.qat import convolutions, fake_quantized, observed_ranges
from export.onnx_export import contract_graph
from export.passes.targets import optimize
from export.spec import ExportSpec
from tests.support.protobuf_graphs import insert_qdq, on_protobuf
from tests.support.seeded_checkpoint import (
    PREPROCESSING,
    SIZE,
    noise,
    preprocessing_of,
    seeded_network,
)

contract_graph = on_protobuf(contract_graph)
optimize = on_protobuf(optimize)
ranges_by_tensor = on_protobuf(ranges_by_tensor)

IMAGES = noise((4, *SIZE, 3), 7)


@pytest.fixture(scope="module")
def ranges() -> dict[str, float]:
    module = ImageToMask(seeded_network(), PREPROCESSING).eval()
    names = [str(number) for number in range(len(IMAGES))]
    return observed_ranges(
        module.network, names, lambda n: module.preprocess(torch.from_numpy(IMAGES[n : n + 1]))
    )


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    module = ImageToMask(seeded_network(), PREPROCESSING, head=LOGITS).eval()
    return contract_graph(module, ExportSpec(size=SIZE, head="logits"))


def unoptimised(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def outputs(model: onnx.ModelProto, extra: list[str]) -> dict[str, NDArray[Any]]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra)
    session = unoptimised(copy)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": IMAGES[:1]}), strict=True))


def readers(graph: onnx.ModelProto) -> dict[str, str]:
    """Convolution's node → the tensor that it reads."""
    return {node.name: node.input[0] for node in graph.graph.node if node.op_type == "Conv"}


@pytest.mark.parametrize(
    "model",
    ["erfnet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lednet", "enet"))],
)
def test_ranges_of_each_network_reach_the_graph(model: str) -> None:
    """By the names that the exporter makes of its modules, of lists of them too."""
    module = ImageToMask(seeded_network(model=model), preprocessing_of(model)).eval()
    image = module.preprocess(torch.from_numpy(IMAGES[:1]))
    ranges = observed_ranges(module.network, ["one"], lambda _: image)
    graph = contract_graph(module, ExportSpec(size=SIZE))
    assert ranges_by_tensor(graph, ranges).keys() == {*readers(graph).values()}


def test_each_convolution_of_the_graph_computes_what_was_trained(
    graph: onnx.ModelProto, ranges: dict[str, float]
) -> None:
    """Each is given what the graph's reads, and is compared by what the next ones read.

    Compared end to end, both would differ: where a value lies between two levels, the last bit of
    a sum decides, and sixty roundings in a row make much of it.
    """
    by_tensor = ranges_by_tensor(graph, ranges)
    quantised, _ = insert_qdq(graph, by_tensor)
    seen = outputs(quantised, list(by_tensor))
    modules = convolutions(seeded_network())
    # In the order of execution, which is that of the graph.
    tensors = dict(zip(modules, readers(graph).values(), strict=True))
    module = ImageToMask(fake_quantized(seeded_network(), ranges), PREPROCESSING).eval()
    module.head = LOGITS
    errors = {}

    def as_in_the_graph(name: str, given: Tensor) -> tuple[Tensor]:
        read = torch.from_numpy(seen[tensors[name]])
        errors[name] = float((given - read).abs().mean() / read.square().mean().sqrt())
        return (read,)

    for name, layer in convolutions(module.network).items():
        layer.register_forward_pre_hook(lambda _, x, n=name: as_in_the_graph(n, x[0]))
    with torch.inference_mode():
        logits = module(torch.from_numpy(IMAGES[:1])).numpy()
    assert len(errors) == 60
    # Rounding to int8 errs by some 1e-2; float32 by 1e-7, and a weight between two levels by more.
    assert max(errors.values()) < 1e-4
    assert np.median(list(errors.values())) < 1e-6
    expected = seen["logits"]
    assert np.abs(logits - expected).mean() < 1e-4 * np.abs(expected).mean()
    assert (logits.argmax(1) == expected.argmax(1)).mean() > 0.999


def test_the_whole_graph_is_nearer_to_what_was_trained_than_to_the_float_network(
    graph: onnx.ModelProto, ranges: dict[str, float]
) -> None:
    seen = outputs(insert_qdq(graph, ranges_by_tensor(graph, ranges))[0], [])["logits"]
    image = torch.from_numpy(IMAGES[:1])
    errors = []
    for network in (fake_quantized(seeded_network(), ranges), seeded_network()):
        module = ImageToMask(network, PREPROCESSING, head=LOGITS).eval()
        with torch.inference_mode():
            errors.append(float(np.abs(module(image).numpy() - seen).mean()))
    assert errors[0] < 0.6 * errors[1]


def test_a_convolution_that_was_split_has_one_range_for_its_parts(
    graph: onnx.ModelProto, ranges: dict[str, float]
) -> None:
    whole = ranges_by_tensor(graph, ranges)
    # A range of its own for each tensor: a part must not have that of another convolution.
    assert len(set(whole.values())) == len(whole) == 51
    model, _ = optimize(graph, "ort-cpu", "int8")
    found = ranges_by_tensor(model, ranges)
    assert len(readers(model)) == 65
    for node, tensor in readers(model).items():
        layer = node.partition("_output_0/conv_")[0]
        assert found[tensor] == whole[readers(graph)[layer]]
    insert_qdq(model, found)
    same, _ = optimize(graph, "tensorrt", "int8")
    assert ranges_by_tensor(same, ranges) == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda ranges: ranges.pop("init_conv.1.conv"),
            "'/network/init_conv/init_conv.1/conv/Conv' has no range in the checkpoint",
        ),
        (
            lambda ranges: ranges.update({"init_conv.3.conv": 1.0}),
            "a range for 'init_conv.3.conv', which is no convolution of the graph",
        ),
        (
            lambda ranges: ranges.update({"DAB_Block_1.DAB_Module_1_2.ddconv3x1.conv": 7.0}),
            "for 'DAB_Block_1.DAB_Module_1_2.dconv3x1.conv' and 7 for 'DAB_.*_2.ddconv3x1.conv'",
        ),
    ],
)
def test_ranges_of_another_graph_are_refused(
    graph: onnx.ModelProto, ranges: dict[str, float], change: Any, message: str
) -> None:
    changed = dict(ranges)
    change(changed)
    with pytest.raises(ArtifactError, match=message):
        ranges_by_tensor(graph, changed)


def test_a_graph_whose_names_say_nothing_is_refused(
    graph: onnx.ModelProto, ranges: dict[str, float]
) -> None:
    anonymous = onnx.ModelProto()
    anonymous.CopyFrom(graph)
    for node in anonymous.graph.node:
        node.name = ""
    with pytest.raises(ArtifactError, match="convolution '' has no range"):
        ranges_by_tensor(anonymous, ranges)
