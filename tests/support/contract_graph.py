"""A small ONNX file that keeps the contract: uint8 NHWC image in, class mask out.

Four convolutions (one of them depthwise and dilated), PReLU, Add, Resize, ArgMax: the operators of
the real network at a size that every backend builds in a second.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dabnet.preprocessing import Preprocessing
from dabnet.runtime.manifest import ONNX_KEY, CalibrationInfo, Manifest, TensorInfo
from dabnet.runtime.onnx_check import graph_sha256_of

CLASSES = 5
HEIGHT, WIDTH = 32, 64
_TYPES = {"uint8": TensorProto.UINT8, "int32": TensorProto.INT32}


class _Graph:
    """Nodes and initializers, appended one operator at a time."""

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.real = np.float16 if precision == "fp16" else np.float32
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(7)

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def quantised(self, tensor: str, scale: float) -> str:
        """Q/DQ with one scale: symmetric int8, zero point 0."""
        step = self.constant(f"{tensor}_scale", np.array(scale, np.float32))
        zero = self.constant(f"{tensor}_zero", np.array(0, np.int8))
        q = self.node("QuantizeLinear", [tensor, step, zero], f"{tensor}_q")
        return self.node("DequantizeLinear", [q, step, zero], f"{tensor}_dq")

    def conv(
        self, tensor: str, name: str, shape: tuple[int, ...], reach: float, **attributes: object
    ) -> str:
        """Conv with bias; in INT8 its input (within ±reach) and weights go through Q/DQ."""
        fan_in = int(np.prod(shape[1:]))
        weight = (self.random.normal(size=shape) / np.sqrt(fan_in)).astype(self.real)
        bias = self.constant(f"{name}_b", self.random.normal(size=shape[0]).astype(self.real))
        if self.precision == "int8":
            tensor = self.quantised(tensor, reach / 127)
            step = np.abs(weight).reshape(shape[0], -1).max(1) / np.float32(127)
            stored = np.round(weight / step[:, None, None, None]).astype(np.int8)
            names = [
                self.constant(f"{name}_wq", stored),
                self.constant(f"{name}_ws", step),
                self.constant(f"{name}_wz", np.zeros(shape[0], np.int8)),
            ]
            weights = self.node("DequantizeLinear", names, f"{name}_w", axis=0)
        else:
            weights = self.constant(f"{name}_w", weight)
        return self.node("Conv", [tensor, weights, bias], name, **attributes)


def contract_model(
    precision: str = "fp32",
    mask: str = "uint8",
    order: str = "cast-first",
    confidence: bool = False,
) -> onnx.ModelProto:
    """The graph of ``precision`` (fp32, fp16, int8) with a ``mask`` of uint8 or int32.

    ``order="transpose-first"`` is the order that TensorRT's parser refuses. ``confidence`` adds the
    second output.
    """
    graph = _Graph(precision)
    real = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT
    if order == "cast-first":
        graph.node("Cast", ["image"], "real", to=real)
        graph.node("Transpose", ["real"], "planes", perm=[0, 3, 1, 2])
    else:
        graph.node("Transpose", ["image"], "turned", perm=[0, 3, 1, 2])
        graph.node("Cast", ["turned"], "planes", to=real)
    mean = np.array([105.0, 108.0, 110.0], graph.real).reshape(1, 3, 1, 1)
    graph.node("Sub", ["planes", graph.constant("mean", mean)], "centred")
    down = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    graph.conv("centred", "first", (16, 3, 3, 3), 150.0, **down)
    slope = graph.constant("slope", np.full((16, 1, 1), 0.25, graph.real))
    graph.node("PRelu", ["first", slope], "active")
    graph.conv("active", "second", (16, 16, 3, 3), 400.0, pads=[1, 1, 1, 1])
    depthwise = {"group": 16, "dilations": [2, 2], "pads": [2, 2, 2, 2]}
    graph.conv("second", "third", (16, 1, 3, 3), 1200.0, **depthwise)
    graph.node("Add", ["third", "active"], "sum")
    graph.conv("sum", "logits_half", (CLASSES, 16, 1, 1), 1600.0)
    graph.constant("scales", np.array([1, 1, 2, 2], np.float32))
    graph.node("Resize", ["logits_half", "", "scales"], "logits", mode="linear")
    graph.node("ArgMax", ["logits"], "labels", axis=1, keepdims=0)
    graph.node("Cast", ["labels"], "mask", to=_TYPES[mask])
    if confidence:
        _add_confidence(graph, _TYPES[mask])
    results = ["mask", *(["confidence"] if confidence else [])]
    sides = [1, HEIGHT, WIDTH]
    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "contract",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, HEIGHT, WIDTH, 3])],
            [helper.make_tensor_value_info(name, _TYPES[mask], sides) for name in results],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def _add_confidence(graph: _Graph, kind: int) -> None:
    """255 / Σ exp(l - max l), rounded."""
    graph.node("ReduceMax", ["logits"], "most", axes=[1])
    graph.node("Exp", [graph.node("Sub", ["logits", "most"], "below")], "shares")
    axis = graph.constant("class_axis", np.array([1], np.int64))
    graph.node("ReduceSum", ["shares", axis], "total", keepdims=0)
    scale = graph.constant("of_255", np.array(255, graph.real))
    graph.node("Mul", [graph.node("Reciprocal", ["total"], "share"), scale], "scaled")
    graph.node("Cast", [graph.node("Round", ["scaled"], "rounded")], "confidence", to=kind)


def contract_manifest(
    precision: str = "fp32", mask: str = "uint8", confidence: bool = False
) -> Manifest:
    """The manifest that belongs to ``contract_model``."""
    manifest = Manifest(
        model="contract",
        dataset="noise",
        classes=tuple(f"class {index}" for index in range(CLASSES)),
        palette=tuple((index, index, index) for index in range(CLASSES)),
        ignore=255,
        preprocessing=Preprocessing((105.0, 108.0, 110.0)),
        input=TensorInfo("image", "uint8", (1, HEIGHT, WIDTH, 3)),
        output=TensorInfo("mask", mask, (1, HEIGHT, WIDTH)),
        precision=precision,
        example=(1, HEIGHT, WIDTH),
        checkpoint_sha256="0" * 64,
        confidence=TensorInfo("confidence", mask, (1, HEIGHT, WIDTH)) if confidence else None,
        logits="logits_half",
        opset=17,
        libraries={"onnx": onnx.__version__},
    )
    if precision != "int8":
        return manifest
    ranges = CalibrationInfo("fixed", "noise", "train", 1, ("0" * 64,))
    return replace(manifest, calibration=ranges)


def add_manifest(model: onnx.ModelProto, manifest: Manifest) -> onnx.ModelProto:
    """Put ``manifest`` into ``model``, with the hash of its graph, and return the model."""
    manifest = replace(manifest, graph_sha256=graph_sha256_of(model.SerializeToString()))
    helper.set_model_props(model, {ONNX_KEY: manifest.to_json()})
    return model


def write_contract(
    folder: Path,
    precision: str = "fp32",
    mask: str = "uint8",
    declared: str | None = None,
    order: str = "cast-first",
    confidence: bool = False,
) -> Path:
    """Write the graph with its manifest and return the path.

    ``declared`` is the precision that the manifest claims, for the tests of a false claim.
    """
    model = contract_model(precision, mask, order, confidence)
    manifest = contract_manifest(declared or precision, mask, confidence)
    add_manifest(model, manifest)
    onnx.checker.check_model(model)
    path = folder / f"contract-{precision}-{mask}{'-confidence' if confidence else ''}.onnx"
    onnx.save(model, str(path))
    return path


def export_network(network: Any, manifest: Manifest, path: Path, height: int, width: int) -> Path:
    """Export a network of the registry (eval mode, FP32) under the contract, and return ``path``.

    The shape in ``manifest`` is replaced by that of the graph.
    """
    import torch

    from dabnet.models.image_to_mask import ImageToMask

    shape = (1, height, width)
    torch.onnx.export(
        ImageToMask(network, manifest.preprocessing).eval(),
        (torch.zeros((*shape, 3), dtype=torch.uint8),),
        str(path),
        input_names=["image"],
        output_names=["mask"],
        opset_version=17,
        dynamo=False,
    )
    manifest = replace(
        manifest,
        input=TensorInfo("image", "uint8", (*shape, 3)),
        output=TensorInfo("mask", "uint8", shape),
        example=shape,
    )
    model = onnx.load(str(path))
    add_manifest(model, manifest)
    onnx.save(model, str(path))
    return path
