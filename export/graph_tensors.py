"""Reading tensors inside an ONNX graph: a copy that ends at them, a session that runs it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import onnx

from dabnet.errors import ArtifactError, MissingPackage


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
