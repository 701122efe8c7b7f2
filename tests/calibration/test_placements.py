"""Which edges each policy rounds, on a small graph and on DABNet itself."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from calibration.placements import PLACEMENTS, Edge, edges_of
from dabnet.checkpoint import load_checkpoint
from dabnet.errors import InputError
from dabnet.graph import facts
from export.onnx_export import float_graph
from export.spec import ExportSpec
from tests.support.calibration_net import make_model, small_net, stem
from tests.support.protobuf_graphs import on_protobuf
from tests.support.seeded_checkpoint import SIZE, write_checkpoint

edges_of = on_protobuf(edges_of)


@pytest.fixture(scope="module")
def dabnet(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    checkpoint = load_checkpoint(write_checkpoint(tmp_path_factory.mktemp("placements")))
    return ir.to_proto(float_graph(checkpoint, ExportSpec(SIZE, "int8")).model)


def is_conv(node: onnx.NodeProto) -> bool:
    return node.op_type == "Conv"


def layer_name(node: onnx.NodeProto) -> str:
    return facts.layer_name(ir.from_proto(node))


def layers(model: onnx.ModelProto, placement: str) -> list[str]:
    """The convolutions whose data input the policy rounds."""
    readers = {edge.reader for edge in edges_of(model, placement)}
    return [layer_name(n) for n in model.graph.node if is_conv(n) and n.output[0] in readers]


def test_each_edge_is_what_its_reader_reads(dabnet: onnx.ModelProto) -> None:
    readers = {node.output[0]: node for node in dabnet.graph.node}
    weights = {item.name for item in dabnet.graph.initializer}
    for placement in PLACEMENTS:
        edges = edges_of(dabnet, placement)
        assert len(set(edges)) == len(edges)
        for edge in edges:
            assert readers[edge.reader].input[edge.index] == edge.tensor
            assert edge.tensor not in weights
        order = [list(readers).index(edge.reader) for edge in edges]
        assert order == sorted(order)


def test_conv_inputs_are_those_of_all_60_convolutions(dabnet: onnx.ModelProto) -> None:
    edges = edges_of(dabnet, "conv-inputs")
    assert len(layers(dabnet, "conv-inputs")) == len(edges) == 60
    assert {edge.index for edge in edges} == {0}


def test_dense_only_leaves_depthwise_first_and_classifier(dabnet: onnx.ModelProto) -> None:
    weights = {i.name: numpy_helper.to_array(i).shape for i in dabnet.graph.initializer}
    dense = [layer_name(n) for n in dabnet.graph.node if is_conv(n) and weights[n.input[1]][1] != 1]
    assert dense[0] == "init_conv.0"
    assert dense[-1] == "classifier.0"
    assert layers(dabnet, "dense-only") == dense[1:-1]
    assert len(dense) == 24


def test_tensorrt_adds_the_residual_of_each_module(dabnet: onnx.ModelProto) -> None:
    beyond = set(edges_of(dabnet, "tensorrt")) - set(edges_of(dabnet, "conv-inputs"))
    producers = {name: node for node in dabnet.graph.node for name in node.output}
    assert len(beyond) == 9  # DAB modules
    for edge in beyond:
        node = producers[edge.reader]
        assert node.op_type == "Add"
        other = node.input[1 - edge.index]
        assert is_conv(producers[other])
        assert layer_name(producers[other]).endswith("conv1x1")
        assert not is_conv(producers[edge.tensor])


def test_all_rounds_every_float_that_the_network_computes_with(dabnet: onnx.ModelProto) -> None:
    rounded = {edge.tensor for edge in edges_of(dabnet, "all")}
    read = {
        name
        for node in dabnet.graph.node
        if node.op_type in ("Conv", "Add", "Concat", "PRelu", "BatchNormalization", "MaxPool")
        for name in node.input
    }
    computed = {name for node in dabnet.graph.node for name in node.output}
    assert rounded >= read & computed
    for placement in PLACEMENTS:
        assert set(edges_of(dabnet, placement)) <= set(edges_of(dabnet, "all"))


def test_only_float_tensors_are_rounded() -> None:
    """A Concat of shapes is none of them, nor is a constant."""
    nodes = [
        *stem(),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Concat", ["shape", "shape"], ["shapes"], axis=0),
        helper.make_node("Add", ["x", "one"], ["logits"]),
        helper.make_node("Identity", ["shapes"], ["unused"]),
    ]
    model = make_model(nodes, {"one": np.ones(1, np.float32)})
    assert edges_of(model, "all") == [Edge("logits", 0, "x")]


def test_names_of_layers() -> None:
    module = "DAB_Block_1/DAB_Module_1_0/conv3x3"
    names = {
        "/network/init_conv/init_conv.0/conv/Conv": "init_conv.0",
        f"/network/{module}/conv/Conv": module.replace("/", "."),
        "only": "only",
        "": "output",
    }
    for name, expected in names.items():
        assert layer_name(helper.make_node("Conv", ["x", "w"], ["output"], name=name)) == expected


def test_an_unknown_placement() -> None:
    with pytest.raises(InputError, match=r"placement 'everything'; expected one of conv-inputs, "):
        edges_of(small_net(), "everything")
