"""How an int8 graph was computed: real sessions, and what their traces hold."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from dabnet.runtime.ort.arithmetic import (
    _PRODUCT,
    arithmetic_of,
    fused_nodes,
    products_saturate,
)
from dabnet.runtime.ort.placement import CPU, PlacedNode
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from tests.support.contract_graph import HEIGHT, WIDTH, write_contract
from tests.support.contract_variants import write_dynamic
from tests.support.int8_graph import int8_model, write_int8

ort = pytest.importorskip("onnxruntime")

EXACT = "exact Q/DQ in float32"


def images(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8)


def test_a_graph_that_onnxruntime_fuses_and_its_exact_session(tmp_path: Path) -> None:
    path = write_int8(tmp_path, fuses=True)
    fused, exact = OnnxRuntimeRunner(path), OnnxRuntimeRunner(path, exact_qdq=True)
    how = "saturate" if products_saturate(ort) else "do not saturate"
    assert fused.fuses_int8 and not exact.fuses_int8
    assert fused.info.arithmetic == (f"fused int8 kernels (QLinearConv 1), which {how} on this CPU")
    assert exact.info.arithmetic == EXACT
    # The exact session computes what the file says, by ONNX's own reference. At a class border the
    # order of a sum may decide.
    model = int8_model(fuses=True)
    model.opset_import[0].version = 19  # the first whose Q/DQ the reference knows; they are alike
    reference = ReferenceEvaluator(model)
    for seed in range(3):
        (expected,) = reference.run(None, {"image": images(seed)})
        assert (exact.infer(images(seed)) == expected).mean() >= 0.999


def test_a_graph_that_onnxruntime_cannot_fuse(tmp_path: Path) -> None:
    runner = OnnxRuntimeRunner(write_int8(tmp_path, fuses=False))
    assert not runner.fuses_int8
    assert runner.info.arithmetic == EXACT


def test_how_it_was_computed_is_asked_of_int8_alone(tmp_path: Path) -> None:
    runner = OnnxRuntimeRunner(write_contract(tmp_path, "fp32"))
    assert runner.info.arithmetic == "" and not runner.fuses_int8
    free = OnnxRuntimeRunner(write_dynamic(tmp_path, "int8"))  # the look takes the example's size
    assert free.info.arithmetic.startswith("fused int8 kernels (QLinearConv 1)")


def test_the_look_leaves_the_session_and_the_disk_alone(tmp_path: Path) -> None:
    path = write_int8(tmp_path, fuses=True)
    runner = OnnxRuntimeRunner(path)
    before = runner.infer(images(1))
    assert runner.info is runner.info  # looked once
    assert np.array_equal(runner.infer(images(1)), before)
    assert list(tmp_path.iterdir()) == [path]


def node(op: str, *made: str, provider: str = CPU) -> PlacedNode:
    return PlacedNode(op.lower(), op, provider, False, made)


def test_which_nodes_compute_on_integers() -> None:
    moves = [
        *(node("QuantizeLinear", "uint8"), node("DequantizeLinear", "float")),
        *(node("MaxPool", "int8"), node("Transpose", "uint8"), node("Cast", "uint8")),
        node("ScatterND", "uint8"),
        *(node("ArgMax", "int64"), node("Conv", "float"), node("Shape", "int64")),
    ]
    assert fused_nodes(moves) == []
    computes = [
        *(node("QLinearConv", "uint8"), node("QLinearAdd", "int8"), node("Resize", "int8")),
        *(node("ConvInteger", "int32"), node("MatMulIntegerToFloat", "float")),
    ]
    assert fused_nodes([*moves, *computes]) == computes


def test_the_words_tell_the_float_type_and_the_provider() -> None:
    halves = [node("Conv", "float16"), node("Resize", "float"), node("Cast", "float16")]
    assert arithmetic_of(halves, ort) == "exact Q/DQ in float16 and float32"
    assert arithmetic_of([node("Conv", "float"), node("Cast", "float16")], ort) == EXACT
    # Of another processor's kernels the CPU says nothing.
    elsewhere = [node("QLinearConv", "int8", provider="CUDAExecutionProvider")] * 2
    assert arithmetic_of(elsewhere, None) == "fused int8 kernels (QLinearConv 2)"


def test_the_trial_product_is_the_graph_it_says() -> None:
    product = helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    a, b, y = (
        helper.make_tensor_value_info(name, kind, None)
        for name, kind in (
            ("a", TensorProto.UINT8),
            ("b", TensorProto.INT8),
            ("y", TensorProto.INT32),
        )
    )
    graph = helper.make_graph([product], "g", [a, b], [y])
    opset = [helper.make_opsetid("", 13)]
    assert onnx.load_from_string(_PRODUCT) == helper.make_model(
        graph, opset_imports=opset, ir_version=8
    )


@pytest.mark.parametrize(("total", "saturates"), [(64 * 255 * 127, False), (32 * 32767, True)])
def test_a_processor_that_saturates_is_seen(total: int, saturates: bool) -> None:
    class Session:
        def __init__(self, model: bytes, providers: list[str]) -> None:
            assert providers == [CPU]

        def run(self, names: None, given: dict[str, Any]) -> list[Any]:
            assert (given["a"].astype(int) @ given["b"].astype(int)).item() == 64 * 255 * 127
            return [np.array([[total]], np.int32)]

    package = SimpleNamespace(InferenceSession=Session)
    assert products_saturate(package) is saturates
    words = arithmetic_of([node("QLinearConv", "uint8")], package)
    assert words.endswith(f"which {'saturate' if saturates else 'do not saturate'} on this CPU")
