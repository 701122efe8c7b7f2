"""Reading tensors inside an ONNX graph: a copy that ends at them, a session that runs it.

The values of a graph's tensors on images: how large in FP32, and what exactly in FP16.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper
from onnx_ir.passes import common

from calibration.collect import Progress, collect
from dabnet.errors import ArtifactError, BuildError, InputError, MissingPackage


def ending_at(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of ``model`` whose outputs are the tensors ``names``, with the nodes they need alone.

    The outputs carry no type: onnxruntime infers it. The weights that are not read any more stay
    in the copy; onnxruntime drops them.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = list(copy.graph.node)
    needed, kept = set(names), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(reads(node))
            kept.append(node)
    del copy.graph.node[:], copy.graph.output[:]
    copy.graph.node.extend(reversed(kept))
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return copy


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, those inside the bodies of an If or a Loop too."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in body.node:
                yield from reads(inner)


def node_label(node: onnx.NodeProto) -> str:
    """How a node is named to a person: its name, or its first output, and its operator."""
    return f"{node.name or node.output[0]} ({node.op_type})"


def cpu_session(model: onnx.ModelProto, source: str, optimised: bool) -> Any:
    """Return an onnxruntime session on the CPU.

    Args:
        source: names the file in the error.
        optimised: False keeps every tensor as the graph defines it; a fusion may round another way.

    Raises:
        MissingPackage: onnxruntime is not installed.
        ArtifactError: onnxruntime does not take the graph.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackage("onnxruntime", "cpu") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Q/DQ as the graph says it: int8 kernels of some CPUs saturate.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Every output is alive at the end of a run; the arena would only round their sizes up.
        options.enable_cpu_mem_arena = False
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises classes of its own for each status
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ArtifactError(
            f"onnxruntime cannot load {source} ({reason})", "an ONNX file written by dabnet-export"
        ) from error


def logits_tensor(model: onnx.ModelProto) -> str | None:
    """Name of the logits before the upsample: what is behind the ArgMax, and before its Resize.

    For graphs whose manifest names none. None where the graph has no ArgMax that a node feeds.
    """
    producer = {name: node for node in model.graph.node for name in node.output}
    last = next((node for node in reversed(model.graph.node) if node.op_type == "ArgMax"), None)
    if last is None:
        return None
    name = str(last.input[0])
    while (node := producer.get(name)) is not None and node.op_type in ("Resize", "Cast"):
        name = str(node.input[0])
    return name if name in producer else None


def computed(model: onnx.ModelProto) -> Iterable[str]:
    """Names of all tensors that the graph's nodes compute, in the order of its nodes."""
    return (name for node in model.graph.node for name in node.output if name)


Array = NDArray[Any]


def largest_activations(
    model: ir.Model,
    images: Iterable[tuple[str, NDArray[np.uint8]]],
    progress: Progress | None = None,
) -> dict[str, float]:
    """Return the largest |x| of each float32 tensor that a node writes, over all images.

    Args:
        model: an FP32 graph with one input, uint8 (N, H, W, 3). Types that it lacks are inferred.
        images: name and uint8 (H, W, 3) or (N, H, W, 3), RGB, 0…255; read once, one at a time.
        progress: called after each image with the number done and its name.

    Raises:
        MissingPackage, InputError, BuildError: as ``calibration.collect.collect`` does; an
            activation that is NaN or infinite in FP32 is a BuildError. No image is an InputError.
    """
    common.ShapeInferencePass()(model)
    names = [
        str(value.name)
        for node in model.graph
        for value in node.outputs
        if value.dtype == ir.DataType.FLOAT
    ]
    histograms = collect(ir.to_proto(model), images, names, progress=progress)
    if any(histogram.count == 0 for histogram in histograms.values()):
        raise InputError("no images to measure activations on", "at least one")
    return {name: histogram.absolute_maximum for name, histogram in histograms.items()}


def has_half_tensors(model: onnx.ModelProto) -> bool:
    """Whether any tensor of the graph is FP16, seen by its constants and casts."""
    half = onnx.TensorProto.FLOAT16
    return any(item.data_type == half for item in model.graph.initializer) or any(
        attribute.name == "to" and attribute.i == half
        for node in model.graph.node
        if node.op_type == "Cast"
        for attribute in node.attribute
    )


class StepwiseSession:
    """Runs a graph on onnxruntime's CPU provider node by node, so that types are taken literally.

    In one session over an FP16 graph that provider computes in FP32 and drops the rounding between
    two nodes, and an overflow with it: 300 · 300 · 0.01 is 900 there and Inf on a GPU. Here every
    tensor is rounded to its type when its node has run, and sums within a node are FP32's.

    Args:
        model: a checked graph without subgraphs. Sessions are made on the first run
            with inputs of a shape.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._constants = {item.name: item for item in model.graph.initializer}
        self._sessions: dict[tuple[int, tuple[tuple[int, ...], ...]], Any] = {}
        self._last_reader = {
            name: index for index, node in enumerate(model.graph.node) for name in node.input
        }

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        """Return the tensors ``names`` (None: the graph's outputs) for the graph's inputs."""
        graph = self._model.graph
        wanted = [output.name for output in graph.output] if names is None else list(names)
        values = dict(feeds)
        for index, node in enumerate(graph.node):
            inputs = {name: values[name] for name in node.input if name in values}
            shapes = tuple(array.shape for array in inputs.values())
            if (index, shapes) not in self._sessions:
                self._sessions[index, shapes] = self._session(node, inputs)
            outputs = [name for name in node.output if name]
            results = self._sessions[index, shapes].run(outputs, inputs)
            values.update(zip(outputs, results, strict=True))
            for name in inputs:
                if self._last_reader[name] == index and name not in wanted:
                    values.pop(name, None)
        if missing := [name for name in wanted if name not in values]:
            raise BuildError(f"the graph computes no tensor {missing[0]!r}", "a tensor's name")
        return [values[name] for name in wanted]

    def _session(self, node: onnx.NodeProto, inputs: Mapping[str, Array]) -> Any:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingPackage("onnxruntime", "cpu") from error
        constants = {
            name: self._constants[name]
            for name in node.input
            if name in self._constants and name not in inputs
        }
        graph = helper.make_graph(
            [node],
            "one node",
            [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
                )
                for name, array in inputs.items()
            ],
            [onnx.ValueInfoProto(name=name) for name in node.output if name],
            list(constants.values()),
        )
        model = helper.make_model(
            graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1  # hundreds of thread pools would spin beside each other
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
