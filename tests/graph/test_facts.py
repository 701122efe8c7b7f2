"""Counts of a graph against other sources: the network's own summary, and ONNX by hand."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torchinfo
from onnx import TensorProto, helper, numpy_helper

from dabnet.graph.facts import GraphSummary, summarise_graph
from dabnet.models.image_to_mask import ImageToMask
from export.onnx_export import contract_graph
from export.spec import ExportSpec
from tests.support.contract_graph import contract_model
from tests.support.protobuf_graphs import conv_inputs, insert_qdq, on_protobuf
from tests.support.seeded_checkpoint import PREPROCESSING, seeded_network

contract_graph = on_protobuf(contract_graph)
summarise_graph = on_protobuf(summarise_graph)

FULL_SIZE = (512, 1024)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return seeded_network(classes=19)


@pytest.fixture(scope="module")
def exported(network: torch.nn.Module) -> onnx.ModelProto:
    return contract_graph(ImageToMask(network, PREPROCESSING).eval(), ExportSpec(FULL_SIZE))


def with_open_sides(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for axis, name in enumerate(("N", "H", "W")):
        copy.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
        copy.graph.output[0].type.tensor_type.shape.dim[axis].dim_param = name
    return copy


def test_multiply_adds_are_those_of_the_network(
    network: torch.nn.Module, exported: onnx.ModelProto
) -> None:
    rows = torchinfo.summary(network, (1, 3, *FULL_SIZE), verbose=0).summary_list
    convolutions = [row for row in rows if row.class_name == "Conv2d"]
    found = summarise_graph(exported, None)
    assert [(layer.output_shape, layer.multiply_adds) for layer in found.layers] == [
        (tuple(row.output_size), row.macs) for row in convolutions
    ]
    assert found.multiply_adds == sum(row.macs for row in convolutions)
    assert round(found.multiply_adds / 1e9, 1) == 10.2
    assert found.operators == Counter(node.op_type for node in exported.graph.node)
    assert {layer.precision for layer in found.layers} == {"fp32"}


def test_open_sides_are_unknown_until_a_size_is_named(exported: onnx.ModelProto) -> None:
    model = with_open_sides(exported)
    assert summarise_graph(model, None).multiply_adds is None
    assert summarise_graph(model, (1, *FULL_SIZE)) == summarise_graph(exported, None)
    halved = summarise_graph(model, (1, 256, 512)).multiply_adds
    assert halved is not None
    assert 4 * halved == summarise_graph(exported, None).multiply_adds
    assert summarise_graph(model, (3, 256, 512)).multiply_adds == 3 * halved


def test_quantised_layers_keep_their_counts(exported: onnx.ModelProto) -> None:
    tensors = conv_inputs(exported)
    kept_float = tensors[3]
    quantised, changed = insert_qdq(exported, {t: 1.0 for t in tensors if t != kept_float})
    before, after = summarise_graph(exported, None), summarise_graph(quantised, None)
    precisions = Counter(layer.precision for layer in after.layers)
    assert precisions == {"int8": len(changed), "fp32": len(before.layers) - len(changed)}
    assert after.parameters == before.parameters
    for float_layer, layer in zip(before.layers, after.layers, strict=True):
        assert layer.multiply_adds == float_layer.multiply_adds
        assert layer.parameters == float_layer.parameters


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_precision_of_each_graph(precision: str) -> None:
    found = summarise_graph(contract_model(precision), None)
    assert {layer.precision for layer in found.layers} == {precision}
    # 4 convolutions: 3→16 and 16→16 of 3x3, a depthwise 3x3, 16→5 of 1x1; then slope and mean.
    weights = 16 * 27 + 16 * 144 + 16 * 9 + 5 * 16 + 3 * 16 + 5
    assert sum(layer.parameters or 0 for layer in found.layers) == weights
    assert found.parameters == weights + 16 + 3
    assert found.multiply_adds == 16 * 32 * (16 * 27 + 16 * 144 + 16 * 9 + 5 * 16)


def graph_of(
    nodes: list[onnx.NodeProto],
    shapes: dict[str, tuple[int, ...]],
    constants: dict[str, np.ndarray],
    types: dict[str, int] | None = None,
) -> onnx.ModelProto:
    """A graph whose inputs have ``shapes`` and whose last node writes ``y``."""
    inputs = [
        helper.make_tensor_value_info(name, (types or {}).get(name, TensorProto.FLOAT), shape)
        for name, shape in shapes.items()
    ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "small",
            inputs,
            [onnx.ValueInfoProto(name="y")],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )


def layer_of(*arguments: Any, **more: Any) -> tuple[str, int | None, int | None]:
    found: GraphSummary = summarise_graph(graph_of(*arguments, **more), None)
    (layer,) = found.layers
    return layer.precision, layer.parameters, layer.multiply_adds


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def test_other_layers_by_hand() -> None:
    """Each output element costs as many multiply-adds as numbers are summed up for it."""
    spread = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], strides=[2, 2])
    assert layer_of([spread], {"x": (2, 4, 5, 6)}, {"w": floats(4, 3, 2, 2), "b": floats(3)}) == (
        "fp32",
        4 * 3 * 4 + 3,
        2 * 3 * 10 * 12 * 4,
    )  # stride = kernel: no overlap
    for transposed, kernel in ((0, (7, 9)), (1, (9, 7))):
        dense = helper.make_node("Gemm", ["x", "w"], ["y"], transB=transposed)
        assert layer_of([dense], {"x": (5, 7)}, {"w": floats(*kernel)}) == ("fp32", 63, 5 * 7 * 9)
    product = helper.make_node("MatMul", ["x", "z"], ["y"])
    assert layer_of([product], {"x": (2, 3, 4), "z": (2, 4, 6)}, {}) == (
        "fp32",
        0,
        2 * 3 * 6 * 4,
    )
    byte = {"x": TensorProto.UINT8}
    integer = helper.make_node("ConvInteger", ["x", "w"], ["y"])
    kernel8 = {"w": np.ones((8, 3, 1, 1), np.int8)}
    assert layer_of([integer], {"x": (1, 3, 4, 4)}, kernel8, types=byte) == (
        "int8",
        24,
        16 * 24,
    )


def test_weights_behind_an_identity_are_found_and_counted_once() -> None:
    """The exporter of PyTorch shares equal constants in this way."""
    alias = helper.make_node("Identity", ["v"], ["w"])
    convs = [helper.make_node("Conv", [a, w], [b]) for a, w, b in ("xwh", "hvy")]
    model = graph_of([alias, *convs], {"x": (1, 3, 4, 4)}, {"v": floats(3, 3, 1, 1)})
    found = summarise_graph(model, None)
    assert [layer.parameters for layer in found.layers] == [9, 9]
    assert (found.parameters, found.multiply_adds) == (9, 2 * 16 * 9)


def test_weights_that_are_quantised_alone_do_not_make_a_layer_int8() -> None:
    weight = helper.make_node("DequantizeLinear", ["q", "s"], ["w"])
    conv = helper.make_node("Conv", ["x", "w"], ["y"])
    constants = {"q": np.ones((2, 3, 1, 1), np.int8), "s": np.array(0.5, np.float32)}
    assert layer_of([weight, conv], {"x": (1, 3, 4, 4)}, constants) == ("fp32", 6, 96)


def test_operators_of_subgraphs_functions_and_other_domains_are_counted() -> None:
    body = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["r"])], "body", [], [onnx.ValueInfoProto(name="r")]
    )
    other = helper.make_node("Gelu", ["i"], ["g"], domain="com.microsoft")
    called = helper.make_node("Twice", ["g"], ["y"], domain="ours")
    branch = helper.make_node("If", ["c"], ["i"], then_branch=body, else_branch=body)
    model = graph_of([branch, other, called], {"x": (4,), "c": ()}, {}, {"c": TensorProto.BOOL})
    opset = [helper.make_opsetid("", 17)]
    twice = [helper.make_node("Abs", ["a"], ["t"]), helper.make_node("Abs", ["t"], ["b"])]
    model.functions.append(helper.make_function("ours", "Twice", ["a"], ["b"], twice, opset))
    model.opset_import.extend([helper.make_opsetid(d, 1) for d in ("com.microsoft", "ours")])
    found = summarise_graph(model, None)
    assert found.operators == {"Abs": 2, "Relu": 2, "If": 1, "com.microsoft:Gelu": 1}
    assert (found.layers, found.multiply_adds) == ((), 0)


def test_a_layer_whose_shapes_nobody_knows_leaves_the_total_unknown() -> None:
    strange = helper.make_node("Strange", ["x"], ["s"], domain="com.example")
    conv = helper.make_node("Conv", ["s", "w"], ["y"])
    model = graph_of([strange, conv], {"x": (1, 3, 4, 4)}, {"w": floats(2, 3, 1, 1)})
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    found = summarise_graph(model, None)
    assert found.layers[0].output_shape is None
    assert found.multiply_adds is None
    assert found.parameters == math.prod((2, 3, 1, 1))


def test_what_the_values_of_a_call_decide_counts_at_the_least() -> None:
    """A product with the rows that NonZero finds: its size is known only after the call."""
    graph = helper.make_graph(
        [
            helper.make_node("NonZero", ["x"], ["found"]),
            helper.make_node("Transpose", ["found"], ["places"], perm=[1, 0]),
            helper.make_node("Cast", ["places"], ["rows"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["rows", "weight"], ["y"]),
            helper.make_node("MatMul", ["x", "other"], ["z"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 6])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, None),
        ],
        [
            numpy_helper.from_array(np.ones((2, 5), np.float32), "weight"),
            numpy_helper.from_array(np.ones((6, 7), np.float32), "other"),
        ],
    )
    summary = summarise_graph(helper.make_model(graph), None)
    assert [layer.output_shape for layer in summary.layers] == [(0, 5), (4, 7)]
    assert summary.multiply_adds == 4 * 6 * 7
