"""A mask's bytes by way of float32; ``test_optimize`` looks at the graphs that get it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from export.passes.trt.bytes_from_float import bytes_from_float
from tests.support.pass_graphs import applied, run


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
def test_every_class_stays_what_it_is(kind: int) -> None:
    x = helper.make_tensor_value_info("x", kind, [256])
    y = helper.make_tensor_value_info("y", TensorProto.UINT8, [256])
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.UINT8)
    graph = helper.make_graph([node], "cast", [x], [y])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    result, changed = applied(bytes_from_float, model)
    assert len(changed) == 1 and [node.op_type for node in result.graph.node] == ["Cast", "Cast"]
    classes = np.arange(256).astype(helper.tensor_dtype_to_np_dtype(kind))
    assert np.array_equal(run(result, classes)[0], classes.astype(np.uint8))
