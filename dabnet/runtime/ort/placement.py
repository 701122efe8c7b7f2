"""The nodes of an onnxruntime session that ran, where and for how long, read from its trace.

onnxruntime places a node on the CPU where the provider that was asked for has no kernel for it,
without a word. Its profiler names the provider of every node that ran
(https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html). The trace is of the
graph after all optimisations: what was fused counts as the one kernel that it became.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dabnet.errors import BackendUnavailable
from dabnet.runtime.runner import LayerTime
from dabnet.starvation import Starved

CPU = "CPUExecutionProvider"
_NODE_SUFFIX = "_kernel_time"  # of the event of a node's run, after the node's name


@dataclass(frozen=True, slots=True)
class PlacedNode:
    """One node that ran."""

    name: str  # after the optimisations, such as ``/classifier/Conv``
    op: str  # such as ``Conv``
    provider: str  # such as ``CUDAExecutionProvider``
    # Whether all it gives are scalars and vectors: arithmetic on shapes, which onnxruntime leaves
    # on the CPU on purpose. Whatever holds pixels has three axes or more.
    is_shape: bool
    made: tuple[str, ...] = ()  # types of what it gives, as onnxruntime writes: ``float``, ``int8``
    seconds: tuple[float, ...] = ()  # of each of its runs


@contextmanager
def traced(options: Any) -> Iterator[Callable[[Any], list[PlacedNode]]]:
    """Let the session that the block creates with ``options`` write a trace.

    Yields a function that takes the session, after its last run, and returns the nodes that ran, in
    order. After the block nothing of the trace is left, on disk or in the session.
    """
    with tempfile.TemporaryDirectory(prefix="dabnet-trace-") as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "trace")
        yield lambda session: _read(Path(session.end_profiling()))


def _read(trace: Path) -> list[PlacedNode]:
    try:
        events = json.loads(trace.read_text(encoding="utf-8"))
    except ValueError as error:  # onnxruntime says nothing of a full disk
        raise Starved(
            f"onnxruntime's trace {str(trace)!r} is not whole",
            "room for temporary files",
            "free some, or name another folder in the variable TMPDIR",
        ) from error
    runs: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        provider = (event.get("args") or {}).get("provider")
        if event.get("cat") == "Node" and provider and event["name"].endswith(_NODE_SUFFIX):
            runs.setdefault(event["name"].removesuffix(_NODE_SUFFIX), []).append(event)
    return [_node(name, events) for name, events in runs.items()]


def _node(name: str, events: list[dict[str, Any]]) -> PlacedNode:
    arguments = events[-1]["args"]
    made = [made for output in arguments.get("output_type_shape", []) for made in output.items()]
    return PlacedNode(
        name,
        str(arguments["op_name"]),
        str(arguments["provider"]),
        is_shape=bool(made) and all(len(shape) <= 1 for _, shape in made),
        made=tuple(kind for kind, _ in made),
        seconds=tuple(1e-6 * float(event["dur"]) for event in events),
    )


def check_placement(
    nodes: list[PlacedNode], provider: str, source: str, allow_cpu_nodes: bool
) -> list[str]:
    """Return what a reader must know of nodes that ran on the CPU instead of on ``provider``.

    Raises:
        BackendUnavailable: a node that computes on pixels did, and ``allow_cpu_nodes`` is False; or
            the trace does not name ``provider``.
    """
    if not any(node.provider == provider for node in nodes):
        raise BackendUnavailable(
            f"no node of {source} ran on {provider} ({len(nodes)} nodes in onnxruntime's trace)",
            fix="check the NVIDIA driver and the CUDA libraries that onnxruntime-gpu asks for",
        )
    elsewhere = [node for node in nodes if node.provider != provider]
    foreign = [node for node in elsewhere if not node.is_shape]
    if foreign and not allow_cpu_nodes:
        first = foreign[0]
        others = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        node = f"the node {first.name!r} ({first.op}){others} of {source}"
        raise BackendUnavailable(
            f"onnxruntime placed {node} on {first.provider}",
            f"all on {provider}",
            "export with --optimize-for ort-cuda, or accept it with allow_cpu_nodes=True",
        )
    shapes = len(elsewhere) - len(foreign)
    notes = [f"{len(foreign)} of {len(nodes)} nodes on the CPU"] if foreign else []
    return notes + ([f"{shapes} shape nodes on the CPU"] if shapes else [])


def node_times(nodes: Sequence[PlacedNode], skipped: int) -> tuple[LayerTime, ...]:
    """Return the mean time of each node over its runs, without the first ``skipped``.

    Raises:
        BackendUnavailable: a node ran on a GPU. The duration in the trace is then that of its
            launch: released builds do not time CUDA kernels (``--enable_cuda_profiling``).
    """
    for node in nodes:
        if node.provider != CPU:
            reason = f"onnxruntime times launches and not kernels on {node.provider}"
            raise BackendUnavailable(reason, fix="profile with Nsight Systems")
    counted = [(node, node.seconds[skipped:]) for node in nodes]
    return LayerTime.ranked([(n.name, n.op, sum(runs) / len(runs)) for n, runs in counted if runs])
