"""Small graphs for the tests of passes, and onnxruntime as it runs them literally."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dabnet.graph.editing import tidy

Array = NDArray[Any]


class GraphOf:
    """``x`` float32 of one shape → the outputs named; nodes and constants are added one by one."""

    def __init__(self, shape: Sequence[int], seed: int = 0, kind: int = TensorProto.FLOAT) -> None:
        self.random = np.random.default_rng(seed)
        self._input = helper.make_tensor_value_info("x", kind, list(shape))
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def constant(self, values: Array, name: str = "") -> str:
        """Add an initializer and return its name."""
        name = name or f"constant_{len(self._constants)}"
        if values.dtype == np.float64:
            values = values.astype(np.float32)
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node of one output and return that output's name."""
        self._nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def conv(self, x: str, output: str, shape: Sequence[int], **attributes: Any) -> str:
        """Add a Conv with random weights of ``shape`` and a bias."""
        weight = self.random.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        names = [x, self.constant(weight), self.constant(self.random.normal(size=shape[0]))]
        return self.node("Conv", names, output, **attributes)

    def batch_norm(self, x: str, output: str, channels: int) -> str:
        """Add a BatchNormalization with random statistics; some scales are negative."""
        draw = self.random.normal(size=(3, channels))
        names = [self.constant(row) for row in draw]
        variance = self.constant(self.random.uniform(0.2, 4, channels))
        return self.node("BatchNormalization", [x, *names, variance], output, epsilon=1e-3)

    def prelu(self, x: str, output: str, slopes: Array) -> str:
        """Add a PRelu with one slope a channel."""
        return self.node("PRelu", [x, self.constant(slopes.reshape(-1, 1, 1))], output)

    def model(self, *outputs: str, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
        """The checked model."""
        graph = helper.make_graph(
            self._nodes,
            "graph",
            [self._input],
            [helper.make_tensor_value_info(name, kind, None) for name in outputs],
            self._constants,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        made = onnx.shape_inference.infer_shapes(made, strict_mode=True)
        onnx.checker.check_model(made, full_check=True)
        return made


def applied(change: Any, model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The model after one pass, checked, and what the pass says it changed."""
    graph, changed = change(tidy(ir.from_proto(model)))
    result = ir.to_proto(tidy(graph))
    onnx.checker.check_model(result, full_check=True)
    assert [o.name for o in result.graph.output] == [o.name for o in model.graph.output]
    return result, changed


def run(model: onnx.ModelProto, x: Array) -> list[Array]:
    """The outputs on onnxruntime's CPU provider, without its own rewrites."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(out) for out in session.run(None, {"x": x})]


def assert_equal(
    before: onnx.ModelProto, after: onnx.ModelProto, x: Array, tolerance: float
) -> None:
    """Each output differs by at most ``tolerance`` of its largest value."""
    for expected, found in zip(run(before, x), run(after, x), strict=True):
        assert found.shape == expected.shape and found.dtype == expected.dtype
        assert np.abs(found - expected).max() <= tolerance * max(1e-6, np.abs(expected).max())


def kinds(model: onnx.ModelProto) -> list[str]:
    """The operators of a model, in order."""
    return [node.op_type for node in model.graph.node]
