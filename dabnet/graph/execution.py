"""Execution of a graph on onnxruntime's CPU provider: in one session, or node by node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dabnet.errors import ArtifactError, BuildError, MissingPackage, first_line
from dabnet.graph.editing import Insertion, replace
from dabnet.graph.facts import array, is_op, node_name, source

Array = NDArray[Any]


def computed(model: ir.Model) -> Iterable[str]:
    """Names of all tensors that the graph's nodes compute, in the order of its nodes."""
    return (value.name for node in model.graph for value in node.outputs if value.name)


def ending_at(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy of ``model`` whose outputs are the tensors ``names``, with the nodes they need alone.

    Raises:
        BuildError: the graph computes no tensor of such a name.
    """
    known = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
    if missing := [name for name in names if name not in known]:
        raise BuildError(f"the graph computes no tensor {missing[0]!r}", "a tensor's name")
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    graph = ir.convenience.extract(model.graph, inputs, names)
    for value in graph.outputs:
        value.type = value.shape = None  # onnxruntime infers it
    functions = tuple(model.functions.values())
    return ir.Model(graph, ir_version=model.ir_version, functions=functions)


def logits_tensor(model: ir.Model) -> str | None:
    """Name of the logits before the upsample: behind the ArgMax, and before its Resize.

    For graphs whose manifest names none. None if the graph has no ArgMax that a node feeds.
    """
    reader = next((node for node in reversed(model.graph) if node.op_type == "ArgMax"), None)
    while is_op(source(reader), "Resize", "Cast"):
        reader = source(reader)
    value = None if reader is None or source(reader) is None else reader.inputs[0]
    return None if value is None else value.name


def has_half_tensors(model: ir.Model) -> bool:
    """Whether any tensor of a graph whose types are known is FP16."""
    values = (value for node in model.graph for value in node.outputs)
    return any(value.dtype == ir.DataType.FLOAT16 for value in values)


def cpu_session(model: ir.Model, file: str) -> Any:
    """Return an onnxruntime session on the CPU; ``file`` names the model's in the error.

    Raises:
        MissingPackage: onnxruntime is not installed.
        ArtifactError: onnxruntime does not take the graph.
    """
    options = _onnxruntime().SessionOptions()
    options.log_severity_level = 4  # its errors are raised, too
    # Q/DQ as the graph says it: int8 kernels of some CPUs saturate.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return _session(model, options)
    except Exception as error:  # onnxruntime raises classes of its own for each status
        raise ArtifactError(
            f"onnxruntime cannot load {file} ({first_line(error)})",
            "an ONNX file written by dabnet-export",
        ) from error


class Stepwise:
    """Runs a graph node by node, one session each, so that each tensor can be looked at.

    One session with every tensor as an output holds them all at once. Here only the tensors are
    held that a later node still reads.

    Nothing can be fused or laid out anew either, and types are taken literally. In one session over
    an FP16 graph the CPU provider computes in FP32 and drops the rounding between two nodes, and an
    overflow with it: 300 · 300 · 0.01 is 900 there and Inf on a GPU. Here every tensor is rounded
    to its type when its node has run; sums within a node are FP32's. A node runs on one thread, so
    that its sums do not depend on the number of cores; several runs may go on at a time.

    Args:
        model: a graph without subgraphs, topologically sorted. It is not modified.
        names: the tensors that are wanted; None: the graph's outputs. Nodes that none of them
            depends on do not run.

    Raises:
        MissingPackage: onnxruntime is not installed.
        BuildError: the graph computes no such tensor, or a node has a subgraph.
    """

    def __init__(self, model: ir.Model, names: Sequence[str] | None = None) -> None:
        _onnxruntime()
        outputs = [str(value.name) for value in model.graph.outputs] if names is None else names
        self._model = ending_at(model, outputs)
        self._nodes = list(self._model.graph)
        for node in self._nodes:
            if any(a.type.name in ("GRAPH", "GRAPHS") for a in node.attributes.values()):
                raise BuildError(
                    f"the node {node_name(node)!r} ({node.op_type}) has a subgraph",
                    "a graph of plain operators",
                )
        self._wanted = {str(value.name) for value in self._model.graph.outputs}
        self._last_reader = {value: node for node in self._nodes for value in node.inputs}
        self._sessions: dict[ir.Node, Any] = {}
        self._making = Lock()

    def run(self, feeds: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
        """Yield each wanted tensor and its values as soon as they are computed.

        Safe to call from several threads at a time. Whoever keeps the values keeps their memory.

        Args:
            feeds: an array for each input of the graph.
        """
        values = dict(feeds)
        for node in self._nodes:
            given = {str(v.name): values[str(v.name)] for v in _variables(node)}
            outputs = [value for value in node.outputs if value.name]
            names = [str(value.name) for value in outputs]
            session = self._session_of(node, given)
            values.update(zip(names, session.run(names, given), strict=True))
            del given
            for name in names:
                if name in self._wanted:
                    yield name, values[name]
            for value in (*_variables(node), *outputs):
                if self._last_reader.get(value, node) is node:
                    del values[str(value.name)]

    def _session_of(self, node: ir.Node, given: Mapping[str, Array]) -> Any:
        with self._making:
            if node not in self._sessions:
                model = _model_of(node, given, self._model)
                self._sessions[node] = _session(model, _stepwise_options())
            return self._sessions[node]


def _variables(node: ir.Node) -> list[ir.Value]:
    """The tensors that a node reads, each once, without constants."""
    read = dict.fromkeys(value for value in node.inputs if value is not None)
    return [value for value in read if not value.is_initializer()]


def _model_of(node: ir.Node, given: Mapping[str, Array], model: ir.Model) -> ir.Model:
    """A model of one node, with the constants that it reads, for tensors of any shape."""
    constants = {value for value in node.inputs if value is not None and value.is_initializer()}
    written = [value for value in node.outputs if value.name]
    graph = ir.GraphView(
        _variables(node),
        written,
        nodes=[node],
        initializers=list(constants),
        opset_imports=model.graph.opset_imports,
        name="one node",
    ).clone()
    for value in graph.inputs:
        value.type = ir.TensorType(ir.DataType.from_numpy(given[str(value.name)].dtype))
        value.shape = None
    for value in graph.outputs:
        value.type = value.shape = None
    if is_op(graph[0], "PRelu"):
        _branch_free(graph[0])
    functions = tuple(model.functions.values())
    return ir.Model(graph, ir_version=model.ir_version, functions=functions)


def _branch_free(prelu: ir.Node) -> None:
    """PReLU(x) → max(x, slope · x) if no slope is 0 or above 1.

    Else → max(x, 0) + slope · min(x, 0), where one of the two terms is 0. Either way the values are
    equal to the last bit. onnxruntime's own kernel asks each value for its sign, which a processor
    cannot predict. Slopes that are not constant, finite and float32 leave the node as it is.
    """
    (x, slope), output = prelu.inputs, prelu.outputs[0]
    slopes = array(slope)
    if slopes is None or slopes.dtype != np.float32 or not np.isfinite(slopes).all():
        return
    before = Insertion(prelu, f"{output.name}/branch_free")
    if bool(np.all((slopes <= 1) & (slopes != 0))):  # 0 times infinity is NaN
        replace(output, before.op("Max", [x, before.op("Mul", [x, slope])]))
        return
    zero = before.constant(np.zeros((), np.float32), "zero")
    scaled = before.op("Mul", [before.op("Min", [x, zero]), slope])
    replace(output, before.op("Add", [before.op("Max", [x, zero]), scaled]))


def _session(model: ir.Model, options: Any) -> Any:
    return _onnxruntime().InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@cache
def _stepwise_options() -> Any:
    """Options of all sessions of one node, which share one pool of memory.

    With a pool of its own, each would keep the most that it ever held.
    """
    onnxruntime = _onnxruntime()
    arena = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    memory = onnxruntime.OrtMemoryInfo("Cpu", arena, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(memory, None)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors are raised, too
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.use_env_allocators", "1")
    return options


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackage("onnxruntime", "cpu") from error
    return onnxruntime
