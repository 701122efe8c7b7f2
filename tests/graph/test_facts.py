"""Counts of a graph against other sources: the network's own summary, and ONNX by hand."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import torchinfo
from onnx import TensorProto, helper, numpy_helper

from dabnet.graph.facts import Layer, inferred, layers_of
from dabnet.models.image_to_mask import ImageToMask
from export.onnx_export import contract_graph
from export.spec import ExportSpec
from tests.support.contract_graph import contract_model
from tests.support.protobuf_graphs import conv_inputs, insert_qdq, on_protobuf
from tests.support.seeded_checkpoint import PREPROCESSING, seeded_network

contract_graph = on_protobuf(contract_graph)

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


def layers(model: onnx.ModelProto, example: tuple[int, int, int] | None = None) -> list[Layer]:
    return list(layers_of(inferred(ir.from_proto(model), example).graph).values())


def multiply_adds(model: onnx.ModelProto, example: tuple[int, int, int]) -> int:
    return sum(layer.multiply_adds or 0 for layer in layers(model, example))


def test_multiply_adds_are_those_of_the_network(
    network: torch.nn.Module, exported: onnx.ModelProto
) -> None:
    rows = torchinfo.summary(network, (1, 3, *FULL_SIZE), verbose=0).summary_list
    convolutions = [row.macs for row in rows if row.class_name == "Conv2d"]
    found = layers(exported)
    assert [layer.multiply_adds for layer in found] == convolutions
    assert round(sum(convolutions) / 1e9, 1) == 10.2
    assert {(layer.operator, layer.precision) for layer in found} == {("Conv", "fp32")}


def test_open_sides_are_unknown_until_a_size_is_named(exported: onnx.ModelProto) -> None:
    model = with_open_sides(exported)
    assert {layer.multiply_adds for layer in layers(model)} == {None}
    assert layers(model, (1, *FULL_SIZE)) == layers(exported)
    halved = multiply_adds(model, (1, 256, 512))
    assert 4 * halved == multiply_adds(exported, (1, *FULL_SIZE))
    assert multiply_adds(model, (3, 256, 512)) == 3 * halved


def test_quantised_layers_keep_their_counts(exported: onnx.ModelProto) -> None:
    tensors = conv_inputs(exported)
    kept_float = tensors[3]
    quantised, changed = insert_qdq(exported, {t: 1.0 for t in tensors if t != kept_float})
    before, after = layers(exported), layers(quantised)
    precisions = Counter(layer.precision for layer in after)
    assert precisions == {"int8": len(changed), "fp32": len(before) - len(changed)}
    for float_layer, layer in zip(before, after, strict=True):
        assert layer.multiply_adds == float_layer.multiply_adds
        assert layer.parameters == float_layer.parameters


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_precision_of_each_graph(precision: str) -> None:
    found = layers(contract_model(precision))
    assert {layer.precision for layer in found} == {precision}
    # 4 convolutions: 3→16 and 16→16 of 3x3, a depthwise 3x3, 16→5 of 1x1.
    weights = 16 * 27 + 16 * 144 + 16 * 9 + 5 * 16
    assert sum(layer.parameters for layer in found) == weights + 3 * 16 + 5
    assert sum(layer.multiply_adds or 0 for layer in found) == 16 * 32 * weights


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
    (layer,) = layers(graph_of(*arguments, **more))
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


def test_weights_behind_an_identity_are_found() -> None:
    """The exporter of PyTorch shares equal constants in this way."""
    alias = helper.make_node("Identity", ["v"], ["w"])
    convs = [helper.make_node("Conv", [a, w], [b]) for a, w, b in ("xwh", "hvy")]
    model = graph_of([alias, *convs], {"x": (1, 3, 4, 4)}, {"v": floats(3, 3, 1, 1)})
    assert [layer.parameters for layer in layers(model)] == [9, 9]
    assert [layer.multiply_adds for layer in layers(model)] == [16 * 9, 16 * 9]


def test_weights_that_are_quantised_alone_do_not_make_a_layer_int8() -> None:
    weight = helper.make_node("DequantizeLinear", ["q", "s"], ["w"])
    conv = helper.make_node("Conv", ["x", "w"], ["y"])
    constants = {"q": np.ones((2, 3, 1, 1), np.int8), "s": np.array(0.5, np.float32)}
    assert layer_of([weight, conv], {"x": (1, 3, 4, 4)}, constants) == ("fp32", 6, 96)


def test_layers_of_other_domains_and_within_functions_are_found() -> None:
    opset = [helper.make_opsetid("", 17)]
    body = [helper.make_node("MatMul", ["a", "a"], ["b"])]
    nodes = [
        helper.make_node("FusedConv", ["x", "w"], ["i"], name="fused", domain="com.microsoft"),
        helper.make_node("Squared", ["z"], ["y"], domain="ours"),
    ]
    model = graph_of(nodes, {"x": (1, 3, 4, 4), "z": (4, 4)}, {"w": floats(2, 3, 1, 1)})
    model.functions.append(helper.make_function("ours", "Squared", ["a"], ["b"], body, opset))
    model.opset_import.extend([helper.make_opsetid(d, 1) for d in ("com.microsoft", "ours")])
    fused, product = layers(model)
    assert (fused.name, fused.operator, fused.parameters) == ("fused", "com.microsoft:FusedConv", 6)
    assert (product.operator, product.multiply_adds) == ("MatMul", 4 * 4 * 4)


def test_a_layer_whose_shapes_nobody_knows() -> None:
    strange = helper.make_node("Strange", ["x"], ["s"], domain="com.example")
    conv = helper.make_node("Conv", ["s", "w"], ["y"])
    model = graph_of([strange, conv], {"x": (1, 3, 4, 4)}, {"w": floats(2, 3, 1, 1)})
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    (found,) = layers(model)
    assert (found.parameters, found.multiply_adds) == (6, None)


def test_a_size_that_only_the_values_of_a_call_decide_counts_as_nothing() -> None:
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
    assert [layer.multiply_adds for layer in layers(helper.make_model(graph))] == [0, 4 * 6 * 7]
