"""Weights that were fitted once serve each choice of convolutions in float."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx import numpy_helper
from test_calibrate import seen

from calibration.calibrate import quantize
from calibration.fit_weights import fit_weights, with_weights
from tests.support.calibration_net import images, small_net
from tests.support.protobuf_graphs import on_protobuf, with_fitted_weights

quantize = on_protobuf(quantize)
with_weights = on_protobuf(with_weights)


def test_layers_in_float_change_no_other_fit() -> None:
    """Weights fitted once serve each choice of float layers, to the last bit."""
    model, ranges = small_net(), seen(6).ranges("mse")
    everything, _ = quantize(model, ranges)
    fits, _ = fit_weights(ir.from_proto(model), ir.from_proto(everything), images(6))
    assert with_weights(everything, fits).SerializeToString() != everything.SerializeToString()
    for layers in (("first",), ("depthwise", "last"), ()):
        fewer, _ = quantize(model, ranges, float_layers=layers)
        before = fewer.SerializeToString()
        expected, _ = with_fitted_weights(model, fewer, images(6))
        found = with_weights(fewer, fits)
        assert fewer.SerializeToString() == before
        assert constants(found) == constants(expected)
        assert [list(node.input) for node in found.graph.node] == [
            list(node.input) for node in expected.graph.node
        ]


def constants(model) -> dict[str, bytes]:
    return {
        item.name: np.ascontiguousarray(numpy_helper.to_array(item)).tobytes()
        for item in model.graph.initializer
    }
