"""Graphs for the FP16 pass, and what must hold for each graph that it returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dabnet.runtime.manifest import TensorInfo
from export.engine.engine import build_engine
from export.engine.spec import BuildSpec
from export.passes.float16 import to_float16
from tests.support.contract_graph import add_manifest, contract_manifest
from tests.support.protobuf_graphs import stepwise

SIZE = (8, 12)  # height, width in pixels
Nodes = Sequence[onnx.NodeProto]


def image_model(
    nodes: Nodes, weights: dict[str, NDArray[Any]], outputs: dict[str, int] | None = None
) -> onnx.ModelProto:
    """``image`` uint8 (1, H, W, 3) → ``x`` float32 (1, 3, H, W), 0…255 → ``nodes``."""
    stem = [
        helper.make_node("Cast", ["image"], ["nhwc"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["nhwc"], ["x"], name="transpose", perm=[0, 3, 1, 2]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, *SIZE, 3])
    return model([*stem, *nodes], weights, [image], outputs or {"y": TensorProto.FLOAT})


def model(
    nodes: Nodes,
    weights: dict[str, NDArray[Any]],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: dict[str, int],
) -> onnx.ModelProto:
    """A checked model of opset 17."""
    graph = helper.make_graph(
        list(nodes),
        "net",
        list(inputs),
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(made, {"dabnet_manifest": "{}"})
    for output in made.graph.output:
        output.type.tensor_type.ClearField("shape")
    made = onnx.shape_inference.infer_shapes(made, strict_mode=True)
    onnx.checker.check_model(made, full_check=True)
    return made


def converted(
    source: onnx.ModelProto, largest: dict[str, float] | None = None
) -> tuple[onnx.ModelProto, list[str]]:
    """Convert a copy, and check what holds for each graph that the pass returns."""
    result, lines = to_float16(ir.from_proto(source), largest=largest)
    made = ir.to_proto(result)
    onnx.checker.check_model(made, full_check=True)  # topological order and types too
    for before, after in (
        (source.graph.input, made.graph.input),
        (source.graph.output, made.graph.output),
    ):
        assert [(v.name, v.type.tensor_type.elem_type) for v in before] == [
            (v.name, v.type.tensor_type.elem_type) for v in after
        ]
    assert made.opset_import[0].version == source.opset_import[0].version
    assert made.metadata_props == source.metadata_props
    check_casts(made)
    return made, lines


def check_casts(made: onnx.ModelProto) -> None:
    """At most one Cast for a tensor and type, and none that reads a float that a Cast wrote."""
    casts = [node for node in made.graph.node if node.op_type == "Cast"]
    targets = [(node.input[0], helper.get_node_attr_value(node, "to")) for node in casts]
    assert not [target for target, count in Counter(targets).items() if count > 1]
    written = {
        node.output[0]
        for node, (_, to) in zip(casts, targets, strict=True)
        if to in (TensorProto.FLOAT, TensorProto.FLOAT16)
    }
    assert not [node.name for node in casts if node.input[0] in written]


def types(made: onnx.ModelProto) -> dict[str, int]:
    """Tensor name → element type, of all tensors."""
    inferred = onnx.shape_inference.infer_shapes(made, strict_mode=True).graph
    found = {
        item.name: item.type.tensor_type.elem_type
        for item in (*inferred.value_info, *inferred.input, *inferred.output)
    }
    return found | {item.name: item.data_type for item in made.graph.initializer}


def all_tensors(made: onnx.ModelProto, *images: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """For each image, each tensor that a node writes, rounded to its type by whoever reads it."""
    names = [name for node in made.graph.node for name in node.output if name]
    return [stepwise(made, {"image": image}, names) for image in images]


def not_finite(tensors: dict[str, NDArray[Any]]) -> list[str]:
    """Names of the float tensors that hold NaN or Inf."""
    return [
        name
        for name, values in tensors.items()
        if values.dtype.kind == "f" and not np.isfinite(values).all()
    ]


def relative_error(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Norm of the difference, as a share of the norm of ``expected``."""
    exact = expected.astype(np.float64)
    return float(np.linalg.norm(actual.astype(np.float64) - exact) / np.linalg.norm(exact))


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    """Two to six layers of DABNet's kinds, some of which amplify beyond FP16 and some back."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    nodes, weights = [helper.make_node("Relu", ["x"], ["start"], name="start")], {}
    x, skip, channels, reach = "start", "", 3, 128.0

    def constant(name: str, values: NDArray[Any]) -> str:
        weights[name] = values.astype(np.float32)
        return name

    for index in range(draw(st.integers(2, 6))):
        kind = draw(st.sampled_from(["Conv", "PRelu", "BatchNormalization", "Add", "pools"]))
        name = f"{kind}{index}"
        if kind == "Conv":
            wanted = draw(st.sampled_from([1e-2, 1.0, 300.0, 3e4, 2e5]))
            scale = wanted / reach / np.sqrt(9 * channels)
            w = constant(f"{name}.w", random.standard_normal((4, channels, 3, 3)) * scale)
            b = constant(f"{name}.b", random.standard_normal(4) * wanted / 10)
            nodes.append(helper.make_node("Conv", [x, w, b], [name], name=name, pads=[1, 1, 1, 1]))
            channels, reach, skip = 4, wanted, ""
        elif kind == "PRelu":
            low, high = draw(st.sampled_from([(-2.0, -0.1), (0.0, 1.0), (1.0, 3.0)]))
            slope = constant(f"{name}.slope", random.uniform(low, high, (channels, 1, 1)))
            nodes.append(helper.make_node("PRelu", [x, slope], [name], name=name))
        elif kind == "BatchNormalization":
            wanted = draw(st.sampled_from([1.0, 300.0, 2e5]))
            parts = [
                constant(f"{name}.gamma", wanted * random.uniform(0.5, 1.5, channels)),
                constant(f"{name}.beta", wanted * random.standard_normal(channels)),
                constant(f"{name}.mean", reach * random.standard_normal(channels)),
                constant(f"{name}.var", reach**2 * random.uniform(0.5, 1.5, channels)),
            ]
            nodes.append(helper.make_node(kind, [x, *parts], [name], name=name, epsilon=1e-3))
            reach, skip = wanted, ""
        elif kind == "Add" and skip:
            nodes.append(helper.make_node("Add", [x, skip], [name], name=name))
        else:
            attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
            nodes.append(
                helper.make_node("MaxPool", [x], [f"{name}.max"], name=f"{name}.max", **attributes)
            )
            both = [f"{name}.max", x]
            nodes.append(helper.make_node("Concat", both, [name], name=name, axis=1))
            channels, skip = 2 * channels, ""
        skip = skip or x if channels == 4 and kind == "PRelu" else skip
        x = name
    nodes.append(helper.make_node("Identity", [x], ["y"], name="last"))
    return image_model(nodes, weights)


def loud(gain: float = 500.0) -> onnx.ModelProto:
    """first → loud (beyond FP16) → PReLU → quiet (back) → last; a skip leads around the middle."""
    random = np.random.default_rng(3)
    weights = {
        "w1": random.standard_normal((4, 3, 3, 3)) / 5,
        "w2": random.standard_normal((4, 4, 1, 1)) * gain,
        "slope": np.full((4, 1, 1), 0.5),
        "w3": random.standard_normal((4, 4, 1, 1)) / gain,
        "w4": random.standard_normal((2, 4, 1, 1)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w2"], ["b"], name="loud"),
        helper.make_node("PRelu", ["b", "slope"], ["c"], name="prelu"),
        helper.make_node("Conv", ["c", "w3"], ["d"], name="quiet"),
        helper.make_node("Add", ["d", "a"], ["e"], name="add"),
        helper.make_node("Conv", ["e", "w4"], ["f"], name="last"),
        helper.make_node("ArgMax", ["f"], ["labels"], name="argmax", axis=1, keepdims=0),
        helper.make_node("Cast", ["labels"], ["y"], name="mask", to=TensorProto.UINT8),
    ]
    floats = {name: values.astype(np.float32) for name, values in weights.items()}
    return image_model(nodes, floats, {"y": TensorProto.UINT8})


def kinds(made: onnx.ModelProto) -> dict[str, int]:
    """Node name → the element type of what it writes."""
    known = types(made)
    return {item.name: known[item.output[0]] for item in made.graph.node}


def layers_of(made: onnx.ModelProto, precision: str, folder: Path) -> dict[str, int]:
    """Build for sm86 and count the engine's layers by type."""
    (shape,) = ([d.dim_value for d in i.type.tensor_type.shape.dim] for i in made.graph.input)
    manifest = replace(
        contract_manifest(precision),
        input=TensorInfo("image", "uint8", tuple(shape)),
        output=TensorInfo("mask", "uint8", tuple(shape[:3])),
        example=tuple(shape[:3]),
    )
    add_manifest(made, manifest)
    onnx.save(made, folder / "model.onnx")
    spec = BuildSpec(precision, "sm86")
    engine = build_engine(folder / "model.onnx", folder / "model.engine", spec).engine
    assert engine is not None
    return engine.layers_by_type
