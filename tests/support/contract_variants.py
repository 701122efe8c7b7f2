"""The graph of ``contract_graph`` in other forms: dynamic sides, raw tensors, shape nodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dabnet.runtime.manifest import Manifest, TensorInfo
from tests.support.contract_graph import (
    CLASSES,
    HEIGHT,
    WIDTH,
    add_manifest,
    contract_manifest,
    contract_model,
)

SIDES = ("batch", "height", "width")


def write_dynamic(folder: Path, precision: str = "fp32", confidence: bool = False) -> Path:
    """Batch, height and width are chosen by each call."""
    model = contract_model(precision, confidence=confidence)
    _declare(model.graph.input[0], (*SIDES, 3))
    for output in model.graph.output:
        _declare(output, SIDES)
    manifest = replace(
        contract_manifest(precision),
        input=TensorInfo("image", "uint8", (-1, -1, -1, 3)),
        output=TensorInfo("mask", "uint8", (-1, -1, -1)),
        confidence=TensorInfo("confidence", "uint8", (-1, -1, -1)) if confidence else None,
    )
    return _write(model, manifest, folder / "dynamic.onnx")


def write_raw(folder: Path) -> Path:
    """Float planes in, logits out: the graph without its first two and its last two nodes."""
    model = contract_model()
    nodes = [node for node in model.graph.node if node.name not in ("real", "planes")]
    del model.graph.node[:]
    model.graph.node.extend(nodes[:-2])
    real, sides = TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH]
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("planes", real, sides))
    sides = [1, CLASSES, HEIGHT, WIDTH]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("logits", real, sides))
    manifest = replace(
        contract_manifest(),
        input=TensorInfo("planes", "float32", (1, 3, HEIGHT, WIDTH)),
        output=TensorInfo("logits", "float32", (1, CLASSES, HEIGHT, WIDTH)),
    )
    return _write(model, manifest, folder / "raw.onnx")


def with_shape_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Resize to the image's own size, computed in the graph: Shape, Slice, Concat."""
    graph = model.graph
    for name, value in {"first": [0], "second": [2], "fourth": [4]}.items():
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), f"at_{name}"))
    shapes = [
        helper.make_node("Shape", ["planes"], ["size"], name="size"),
        helper.make_node("Slice", ["size", "at_second", "at_fourth"], ["sides"], name="sides"),
        helper.make_node("Shape", ["logits_half"], ["half"], name="half"),
        helper.make_node("Slice", ["half", "at_first", "at_second"], ["start"], name="start"),
        helper.make_node("Concat", ["start", "sides"], ["sizes"], name="sizes", axis=0),
    ]
    at = next(i for i, node in enumerate(graph.node) if node.op_type == "Resize")
    resize = helper.make_node(
        "Resize", ["logits_half", "", "", "sizes"], ["logits"], name="logits", mode="linear"
    )
    nodes = [*graph.node[:at], *shapes, resize, *graph.node[at + 1 :]]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def write_with_shape_nodes(folder: Path) -> Path:
    """Dynamic sides, with nodes that onnxruntime leaves on the CPU on purpose."""
    path = write_dynamic(folder)
    model = onnx.load(str(path))
    manifest = Manifest.from_json(model.metadata_props[0].value, str(path))
    onnx.save(add_manifest(with_shape_nodes(model), manifest), str(path))
    return path


def _declare(value: onnx.ValueInfoProto, sides: tuple[str | int, ...]) -> None:
    kind = value.type.tensor_type.elem_type
    value.CopyFrom(helper.make_tensor_value_info(value.name, kind, sides))


def _write(model: onnx.ModelProto, manifest: Manifest, path: Path) -> Path:
    add_manifest(model, manifest)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path
