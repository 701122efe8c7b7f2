"""Run a graph node by node on onnxruntime, so that each tensor can be looked at and let go.

One session with every tensor as an output holds them all at once: 0.8 GB for one 512×1024 image of
DABNet. Node by node, only what a later node still reads is held. Nothing can be fused or re-laid
out either: each tensor is what the FP32 graph says. A node runs on one thread, so that its sums do
not depend on how many cores there are; several images may run at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from dabnet.errors import BuildError, InputError, MissingPackage

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Step:
    """One node: its session, what it reads and writes, and what nothing later reads."""

    session: Any
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    last_reads: tuple[str, ...]


class StepwiseGraph:
    """An ONNX graph of one uint8 (N, H, W, 3) input, cut into one session a node.

    Nodes that none of ``wanted`` depends on are left out.

    Args:
        model: a graph without subgraphs, topologically sorted. It is not modified.
        wanted: names of the float32 tensors to look at.

    Attributes:
        input_name, input_shape: of the image; a side that each call chooses is a string.

    Raises:
        MissingPackage: onnxruntime is not installed.
        InputError: the graph has another input.
        BuildError: a wanted tensor is unknown or not float32; or a node has a subgraph.
    """

    def __init__(self, model: onnx.ModelProto, wanted: Collection[str]) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingPackage("onnxruntime", "cpu") from error
        self._wanted = frozenset(wanted)
        constants = {item.name: item for item in model.graph.initializer}
        self.input_name, self.input_shape = _image_input(model, constants)
        types = element_types(model)
        _check_wanted(model, wanted, types)
        nodes = _ancestors(model, wanted)
        last_reader = {name: index for index, node in enumerate(nodes) for name in node.input}
        _share_arena()
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.use_env_allocators", "1")
        self._steps = []
        for index, node in enumerate(nodes):
            reads = tuple(dict.fromkeys(i for i in node.input if i and i not in constants))
            writes = tuple(name for name in node.output if name)
            session = onnxruntime.InferenceSession(
                _model_of(node, model, reads, writes, types, constants).SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
            )
            unread = (name for name in writes if name not in last_reader)
            last_reads = (name for name in reads if last_reader[name] == index)
            self._steps.append(_Step(session, reads, writes, (*last_reads, *unread)))

    def run(self, image: NDArray[np.uint8]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield each wanted tensor and its values as soon as they are computed.

        Safe to call from several threads at a time. Whoever keeps the values keeps their memory.

        Args:
            image: uint8 (N, H, W, 3), RGB, 0…255, of the graph's size.
        """
        values: dict[str, Array] = {self.input_name: image}
        for step in self._steps:
            feed = {name: values[name] for name in step.reads}
            values.update(zip(step.writes, step.session.run(step.writes, feed), strict=True))
            del feed
            for name in step.writes:
                if name in self._wanted:
                    yield name, values[name]
            for name in step.last_reads:
                del values[name]


def _image_input(
    model: onnx.ModelProto, constants: Collection[str]
) -> tuple[str, tuple[int | str, ...]]:
    inputs = [item for item in model.graph.input if item.name not in constants]
    shapes = [tuple(d.dim_value or d.dim_param for d in _tensor(i).shape.dim) for i in inputs]
    is_image = [_tensor(i).elem_type == onnx.TensorProto.UINT8 for i in inputs]
    if is_image != [True] or len(shapes[0]) != 4:
        found = ", ".join(
            f"{item.name}: {_type_name(_tensor(item).elem_type)} {list(shape)}"
            for item, shape in zip(inputs, shapes, strict=True)
        )
        raise InputError(
            f"a graph with the inputs {found or 'none'}",
            "one input, uint8 (N, H, W, 3)",
            "export the model with a uint8 image input",
        )
    return inputs[0].name, shapes[0]


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of each tensor whose type is known, as ``onnx.TensorProto`` numbers it."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    fields = (graph.input, graph.value_info, graph.output)
    return {item.name: _tensor(item).elem_type for field in fields for item in field}


def _check_wanted(model: onnx.ModelProto, wanted: Collection[str], types: dict[str, int]) -> None:
    known = {name for node in model.graph.node for name in node.output if name}
    for name in wanted:
        if name not in known:
            raise BuildError(
                f"the graph computes no tensor {name!r}", "the name of a node's output"
            )
        if types.get(name, 0) != onnx.TensorProto.FLOAT:
            raise BuildError(
                f"tensor {name!r} is {_type_name(types.get(name, 0))}",
                "float32",
                "calibrate the FP32 model",
            )


def _ancestors(model: onnx.ModelProto, wanted: Collection[str]) -> list[onnx.NodeProto]:
    """The nodes that ``wanted`` depends on, in graph order."""
    needed = set(wanted)
    found = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            if any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
                raise BuildError(
                    f"the node {node.name or node.output[0]!r} ({node.op_type}) has a subgraph",
                    "a graph of plain operators",
                )
            needed.update(node.input)
            found.append(node)
    return found[::-1]


def _model_of(
    node: onnx.NodeProto,
    model: onnx.ModelProto,
    reads: Collection[str],
    writes: Collection[str],
    types: dict[str, int],
    constants: dict[str, onnx.TensorProto],
) -> onnx.ModelProto:
    """A model of one node, with the constants that it reads and tensors of any shape."""
    inputs = [helper.make_tensor_value_info(name, types[name], None) for name in reads]
    outputs = [onnx.ValueInfoProto(name=name) for name in writes]
    own = [constants[name] for name in dict.fromkeys(node.input) if name in constants]
    nodes = [node]
    if node.op_type == "PRelu" and node.domain in ("", "ai.onnx") and _is_finite(own):
        nodes, own = _prelu_without_branch(node, own[0])
    graph = helper.make_graph(nodes, "node", inputs, outputs, own)
    return helper.make_model(
        graph,
        opset_imports=model.opset_import,
        functions=model.functions,
        ir_version=model.ir_version,
    )


def _is_finite(constants: list[onnx.TensorProto]) -> bool:
    """Whether there is one constant (a PReLU's slopes), of finite float32 values."""
    return ([constant.data_type for constant in constants] == [onnx.TensorProto.FLOAT]) and bool(
        np.isfinite(numpy_helper.to_array(constants[0])).all()
    )


def _prelu_without_branch(
    node: onnx.NodeProto, slopes: onnx.TensorProto
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """PReLU(x) → max(x, slope · x) where no slope is 0 or above 1, and the constants it reads.

    Else → max(x, 0) + slope · min(x, 0), where one of the two terms is 0. Either way the values are
    equal to the last bit. onnxruntime's own kernel asks each value for its sign, which a processor
    cannot predict.
    """
    (x, slope), output = node.input, node.output[0]
    zero, positive, negative, scaled = (
        f"{output}_{part}" for part in ("zero", "positive", "negative", "scaled")
    )
    values = numpy_helper.to_array(slopes)
    if bool(np.all((values <= 1) & (values != 0))):  # 0 times infinity is NaN
        nodes = [
            helper.make_node("Mul", [x, slope], [scaled]),
            helper.make_node("Max", [x, scaled], [output]),
        ]
        return nodes, [slopes]
    nodes = [
        helper.make_node("Max", [x, zero], [positive]),
        helper.make_node("Min", [x, zero], [negative]),
        helper.make_node("Mul", [negative, slope], [scaled]),
        helper.make_node("Add", [positive, scaled], [output]),
    ]
    return nodes, [slopes, numpy_helper.from_array(np.zeros((), np.float32), zero)]


@cache
def _share_arena() -> None:
    """Give the sessions one pool of memory: each its own would keep what all of them ever held."""
    import onnxruntime

    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(memory, None)


def _tensor(item: onnx.ValueInfoProto) -> Any:
    return item.type.tensor_type


def _type_name(element_type: int) -> str:
    return f"tensor({onnx.TensorProto.DataType.Name(element_type).lower()})"
