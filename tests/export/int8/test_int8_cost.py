"""The roofline model of int8 against sums by hand."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.int8.cost import CARDS, Card, CostModel

SLOW_MEMORY = Card("memory", {"fp32": 1e30, "int8": 1e30}, 1.0, "fp32")
SLOW_SUMS = Card("sums", {"fp32": 1.0, "int8": 4.0}, 1e30, "fp32")
HALF_REST = Card("half", {"fp16": 1e30, "int8": 1e30}, 1.0, "fp16")


def chain(add: bool = False) -> onnx.ModelProto:
    """x (1, 2, 4, 4) ─ a: 1×1, 2 → 8 ─▶ y ─ b: depthwise 3×3 ─▶ z (─ + y)."""
    weights = {"wa": np.ones((8, 2, 1, 1)), "wb": np.ones((8, 1, 3, 3))}
    nodes = [
        helper.make_node("Conv", ["x", "wa"], ["y"], name="a"),
        helper.make_node("Conv", ["y", "wb"], ["z"], name="b", group=8, pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["z", "y" if add else "z"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 8, 4, 4])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def model(card: Card, add: bool = False) -> CostModel:
    return CostModel(ir.from_proto(chain(add)), ["a", "b"], card, (1, 4, 4))


X, Y, Z, WA, WB = 32, 128, 128, 16, 72  # elements


def test_arithmetic_alone() -> None:
    cost = model(SLOW_SUMS)
    adds_a, adds_b = Y * 2, Z * 9
    assert cost.seconds(["a", "b"]) == pytest.approx(adds_a + adds_b)
    assert cost.seconds([]) == pytest.approx((adds_a + adds_b) / 4)
    assert cost.gain("a") == pytest.approx(adds_a * 3 / 4)
    assert cost.seconds(cost.layers) == pytest.approx(4 * cost.seconds(()))


def test_memory_alone() -> None:
    cost = model(SLOW_MEMORY)
    floats = 4 * (X + WA + Y) + 4 * (Y + WB + Z) + 4 * (X + Y)  # read, written; inputs written
    assert cost.seconds(["a", "b"]) == floats
    assert cost.seconds([]) == (X + WA + 4 * Y) + (Y + WB + 4 * Z) + (X + Y)
    assert cost.gain("b") == 3 * (Y + WB) + 3 * Y


def test_a_tensor_that_is_read_in_both_forms_is_written_in_both() -> None:
    plain, shared = model(SLOW_MEMORY), model(SLOW_MEMORY, add=True)
    assert shared.seconds([]) - plain.seconds([]) == 4 * Y
    assert shared.seconds(["b"]) == plain.seconds(["b"])
    assert shared.gain("b") == 3 * (Y + WB) - Y  # int8 of y is written beside the float


def test_int8_competes_with_the_rest_of_the_card() -> None:
    """It writes FP32 whatever the rest is: beside FP16, int8 can cost time."""
    cost = model(HALF_REST, add=True)
    assert cost.seconds(["a", "b"]) == 2 * (X + WA + Y) + 2 * (Y + WB + Z) + 2 * (X + Y)
    assert cost.gain("b") == (2 - 1) * (Y + WB) + (2 - 4) * Z - Y
    assert cost.gain("b") < 0


def test_layers_of_another_placement_stay_in_float() -> None:
    cost = CostModel(ir.from_proto(chain()), ["b"], SLOW_SUMS, (1, 4, 4))
    assert cost.seconds([]) == pytest.approx(Y * 2 + Z * 9 / 4)


def test_cards() -> None:
    assert CARDS["gtx-1080-ti"].rest == "fp32"
    assert all(set(card.multiply_adds_per_s) == {"fp32", "fp16", "int8"} for card in CARDS.values())
