"""The model of a plan against sums by hand; ``test_plan`` compares it with real plans."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export.cards import CARDS, LAUNCH_S, Card
from export.int8.cost import CostModel
from tests.support.pass_graphs import GraphOf

SLOW_MEMORY = Card("memory", "sm86", {"fp32": 1e30, "int8": 1e30}, 1.0, "fp32")
SLOW_SUMS = Card("sums", "sm86", {"fp32": 1.0, "int8": 4.0}, 1e30, "fp32")
HALF_REST = Card("half", "sm86", {"fp16": 1e30, "int8": 1e30}, 1.0, "fp16")


def chain(add: bool = False) -> onnx.ModelProto:
    """x (1, 2, 4, 4) ─ a: 1×1, 2 → 8 ─▶ PReLU ─▶ y ─ b: 1×1, 8 → 8 ─▶ out (+ y)."""
    graph = GraphOf((1, 2, 4, 4))
    weight = graph.constant(np.ones((8, 2, 1, 1)))
    graph.node("Conv", ["x", weight], "c", name="a")
    graph.prelu("c", "y", np.full(8, 0.25))
    weight = graph.constant(np.ones((8, 8, 1, 1)))
    graph.node("Conv", ["y", weight], "z" if add else "out", name="b")
    if add:
        graph.node("Add", ["z", "y"], "out")
    return graph.model("out")


def model(card: Card, add: bool = False) -> CostModel:
    return CostModel(ir.from_proto(chain(add)), ["a", "b"], card, (1, 4, 4))


def seconds(cost: CostModel, *float_layers: str) -> float:
    """Without the launches."""
    return cost.seconds(float_layers) - LAUNCH_S * len(cost.kernels(float_layers))


X, Y, WA, WB = 32, 128, 16, 64  # elements


def test_arithmetic_alone() -> None:
    cost = model(SLOW_SUMS)
    adds_a, adds_b = Y * 2, Y * 8
    assert seconds(cost, "a", "b") == pytest.approx(adds_a + adds_b)
    assert seconds(cost) == pytest.approx((adds_a + adds_b) / 4)
    assert cost.gain("a") == pytest.approx(adds_a * 3 / 4, rel=1e-3)


def test_kernels_of_floats_take_the_pointwise_work_in() -> None:
    cost = model(SLOW_MEMORY)
    assert [kernel.name for kernel in cost.kernels(("a", "b"))] == ["a", "b"]
    assert seconds(cost, "a", "b") == pytest.approx(4 * (X + WA + Y) + 4 * (Y + WB + Y))
    # y is read once more, by the kernel that adds it
    assert seconds(model(SLOW_MEMORY, add=True), "a", "b") == seconds(cost, "a", "b")


def test_int8_stands_alone_and_is_rounded_before() -> None:
    """x → int8, a writes floats, PReLU and rounding, b writes floats."""
    cost = model(SLOW_MEMORY)
    names = [kernel.name for kernel in cost.kernels(())]
    assert names == ["a", "", "b"] and cost.kernels(())[1].precision == "fp32"
    rounding = 4 * Y + Y
    assert seconds(cost) == pytest.approx((X + WA + 4 * Y) + rounding + (Y + WB + 4 * Y))
    # b alone in int8: a cannot write int8, nor take in what is rounded
    assert seconds(cost, "a") == pytest.approx(4 * (X + WA + Y) + rounding + Y + WB + 4 * Y)


def test_a_tensor_that_is_read_in_both_forms_is_written_in_both() -> None:
    plain, shared = model(SLOW_MEMORY), model(SLOW_MEMORY, add=True)
    # y is written in float too; a kernel behind the int8 one reads z and y, and writes the sum
    assert seconds(shared) - seconds(plain) == pytest.approx(4 * Y + 3 * 4 * Y)


def test_int8_competes_with_the_rest_of_the_card() -> None:
    cost = model(HALF_REST)
    assert seconds(cost, "a", "b") == pytest.approx(2 * (X + WA + Y) + 2 * (Y + WB + Y))
    rounding = 2 * Y + Y
    int8 = (X + WA + 2 * Y) + rounding + (Y + WB + 2 * Y)
    assert seconds(cost) == pytest.approx(int8)
    assert seconds(cost) > seconds(cost, "a", "b")  # what floats do in one kernel takes two


def test_layers_of_another_placement_stay_in_float() -> None:
    cost = CostModel(ir.from_proto(chain()), ["b"], SLOW_SUMS, (1, 4, 4))
    assert seconds(cost) == pytest.approx(Y * 2 + Y * 8 / 4)
    assert cost.moved_bytes(()) > 0


def test_cards() -> None:
    assert CARDS["gtx-1080-ti"].rest == "fp32"
    assert all(set(card.multiply_adds_per_s) == {"fp32", "fp16", "int8"} for card in CARDS.values())
