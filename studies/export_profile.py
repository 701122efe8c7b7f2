"""Where an ONNX file's time goes on onnxruntime's CPU provider, by kind of operator."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import onnx
import onnxruntime

from dabnet.runtime.runner import Uint8Array

CALLS = 8
DENSE, DEPTHWISE = "Conv, dense", "Conv, depthwise"


def milliseconds_by_kind(path: Path, images: list[Uint8Array], threads: int) -> dict[str, float]:
    """Median time of a call spent in each kind of operator, most first.

    Source: onnxruntime's profiler, and its optimised graph, which says which Conv is depthwise:
    https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html
    """
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # a graph of one machine's layout is what is wanted here
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "trace")
        options.optimized_model_filepath = str(optimised)
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        for number in range(CALLS):
            session.run(None, {session.get_inputs()[0].name: images[number % len(images)]})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        groups = {
            node.name: attribute.i
            for node in onnx.load(optimised).graph.node
            for attribute in node.attribute
            if attribute.name == "group"
        }
    calls: dict[str, list[float]] = defaultdict(list)
    kinds: dict[str, str] = {}
    for event in events:
        name = event["name"].removesuffix("_kernel_time")
        if event["cat"] != "Node" or name == event["name"]:
            continue
        kind = event["args"]["op_name"]
        if kind == "Conv":
            kind = DEPTHWISE if groups.get(name, 1) > 1 else DENSE
        kinds[name] = kind
        calls[name].append(event["dur"] / 1e3)
    totals: dict[str, float] = defaultdict(float)
    for name, durations in calls.items():
        totals[kinds[name]] += statistics.median(durations[1:])  # the first call sets up
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


def profile_table(profiles: dict[str, dict[str, float]]) -> str:
    """Return the kinds as Markdown, a column a file; what is below 1 % everywhere is one row."""
    totals = {name: sum(kinds.values()) for name, kinds in profiles.items()}
    order = list(dict.fromkeys(kind for kinds in profiles.values() for kind in kinds))
    shown = [
        kind
        for kind in order
        if any(kinds.get(kind, 0) >= 0.01 * totals[name] for name, kinds in profiles.items())
    ]
    lines = [
        "| operators | " + " | ".join(f"{name}, ms" for name in profiles) + " |",
        "|---|" + "---|" * len(profiles),
    ]
    rows = {kind: [kinds.get(kind, 0) for kinds in profiles.values()] for kind in shown}
    rows["others"] = [
        totals[name] - sum(kinds.get(kind, 0) for kind in shown) for name, kinds in profiles.items()
    ]
    rows["all"] = list(totals.values())
    lines += [f"| {k} | " + " | ".join(f"{ms:.1f}" for ms in row) + " |" for k, row in rows.items()]
    return "\n".join(lines)
