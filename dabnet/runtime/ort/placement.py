"""On which provider each node of an onnxruntime session ran, read from the trace of one run.

onnxruntime places a node on the CPU where the provider that was asked for has no kernel for it,
without a word. Its profiler names the provider of every node that ran
(https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html), in every release
that this project takes; the trace is of the graph after all optimisations, which is what runs.

Time by node, from onnxruntime's trace of several runs.

https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html. A node is one of the
optimised graph: what was fused counts as the one kernel that it became.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dabnet.errors import BackendUnavailable
from dabnet.runtime.runner import LayerTime, layer_times

CPU = "CPUExecutionProvider"
NODE_SUFFIX = "_kernel_time"
"""Of the event of a node's run, after the node's name."""


@dataclass(frozen=True, slots=True)
class PlacedNode:
    """One node that ran.

    Attributes:
        name: of the node after the optimisations, such as ``/classifier/Conv``.
        op: such as ``Conv``.
        provider: such as ``CUDAExecutionProvider``.
        is_shape: whether all it gives are scalars and vectors: arithmetic on shapes, which
            onnxruntime leaves on the CPU on purpose. Whatever holds pixels has three axes or more.
        made: types of what it gives, in onnxruntime's words: ``float``, ``int8``.
    """

    name: str
    op: str
    provider: str
    is_shape: bool
    made: tuple[str, ...] = ()


@contextmanager
def tracing(options: Any) -> Iterator[Callable[[Any], Path]]:
    """Let the session that the block creates with ``options`` write a trace.

    Yields a function that takes the session, after its last run, ends the trace and returns its
    file. Outside of the block nothing of the trace is left, on disk or in the session.
    """
    with tempfile.TemporaryDirectory(prefix="dabnet-trace-") as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "trace")
        yield lambda session: Path(session.end_profiling())


@contextmanager
def traced(options: Any) -> Iterator[Callable[[Any], list[PlacedNode]]]:
    """As ``tracing``; the function that it yields returns the nodes that ran."""
    with tracing(options) as ended:
        yield lambda session: read_trace(ended(session))


def read_trace(path: Path) -> list[PlacedNode]:
    """Return the nodes in a trace of onnxruntime, each once, in the order in which they ran."""
    events = json.loads(path.read_text(encoding="utf-8"))
    nodes: dict[str, PlacedNode] = {}
    for event in events:
        arguments = event.get("args") or {}
        if event.get("cat") != "Node" or not arguments.get("provider"):
            continue
        name = str(event["name"]).removesuffix(NODE_SUFFIX)
        made = [
            made for output in arguments.get("output_type_shape", []) for made in output.items()
        ]
        nodes[name] = PlacedNode(
            name,
            str(arguments["op_name"]),
            str(arguments["provider"]),
            bool(made) and all(len(shape) <= 1 for _, shape in made),
            tuple(kind for kind, _ in made),
        )
    return list(nodes.values())


def check_placement(
    nodes: list[PlacedNode], provider: str, source: str, allow_cpu_nodes: bool
) -> list[str]:
    """Return what a reader must know of nodes that ran on the CPU in place of ``provider``.

    Raises:
        BackendUnavailable: a node that computes on pixels did, and ``allow_cpu_nodes`` is False; or
            the trace says nothing of ``provider``.
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
        raise BackendUnavailable(
            f"onnxruntime placed the node {first.name!r} ({first.op}){others} of {source} on "
            f"{first.provider}",
            f"all on {provider}",
            "export with --optimize-for ort-cuda, or accept it with allow_cpu_nodes=True",
        )
    shapes = len(elsewhere) - len(foreign)
    notes = [f"{len(foreign)} of {len(nodes)} nodes on the CPU"] if foreign else []
    return notes + ([f"{shapes} shape nodes on the CPU"] if shapes else [])


def read_layer_times(trace: Path, skipped: int) -> tuple[LayerTime, ...]:
    """Return the mean time of each node over the runs in ``trace``, without the first ``skipped``.

    Raises:
        BackendUnavailable: a node ran on a GPU. The duration in the trace is then that of its
            launch: released builds do not time CUDA kernels (``--enable_cuda_profiling``).
    """
    seen: Counter[str] = Counter()
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in json.loads(trace.read_text(encoding="utf-8")):
        arguments = event.get("args") or {}
        if event.get("cat") != "Node" or not event["name"].endswith(NODE_SUFFIX):
            continue
        name = str(event["name"]).removesuffix(NODE_SUFFIX)
        if (provider := arguments.get("provider") or CPU) != CPU:
            raise BackendUnavailable(
                f"onnxruntime times launches and not kernels on {provider}",
                fix="profile with Nsight Systems",
            )
        seen[name] += 1
        if seen[name] > skipped:
            kind = str(arguments["op_name"])
            seconds[name, kind].append(1e-6 * float(event["dur"]))
    return layer_times([(*node, sum(all_) / len(all_)) for node, all_ in seconds.items()])
