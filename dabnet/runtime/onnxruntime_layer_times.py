"""Time by node, from onnxruntime's trace of several runs.

https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html. A node is one of the
optimised graph: what was fused counts as the one kernel that it became.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

from dabnet.errors import BackendUnavailable
from dabnet.runtime.layer_time import LayerTime, layer_times
from dabnet.runtime.onnxruntime_placement import CPU, NODE_SUFFIX


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
