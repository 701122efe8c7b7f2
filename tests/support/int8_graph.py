"""The int8 graph of ``contract_graph``, which onnxruntime fuses in part, and one it cannot fuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dabnet.runtime.manifest import Manifest
from tests.support.contract_graph import add_manifest, contract_manifest, contract_model


def int8_model(fuses: bool) -> onnx.ModelProto:
    """Four int8 convolutions. In the contract graph the second feeds the Q/DQ of the third, so that
    both its sides are rounded; otherwise a PRelu stands between them."""
    model = contract_model("int8")
    if fuses:
        return model
    graph = model.graph
    at = next(i for i, n in enumerate(graph.node) if n.output[0] == "second_q")
    graph.node[at].input[0] = "second_active"
    graph.initializer.append(numpy_helper.from_array(np.array([0.5], np.float32), "half"))
    between = helper.make_node("PRelu", ["second", "half"], ["second_active"], name="second_active")
    nodes = [*graph.node[:at], between, *graph.node[at:]]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def write_int8(folder: Path, fuses: bool, manifest: Manifest | None = None) -> Path:
    """Write it as an artifact and return its path."""
    model = int8_model(fuses)
    declared = manifest or contract_manifest("int8")
    add_manifest(model, declared)
    onnx.checker.check_model(model)
    path = folder / f"int8-{'fuses' if fuses else 'plain'}.onnx"
    onnx.save(model, str(path))
    return path
