"""Speed of an export for CPUs, beside what its user would get without it.

    python studies/export_speed.py --gains

Each row runs in a process of its own, as its user has it, and takes its turn in rounds whose order
is drawn anew, on the same images; each gives a uint8 image's class mask in FP32, and reports on how
many pixels it agrees with PyTorch:

- pytorch eager, torch.compile (BatchNorm folded, channels last): the checkpoint's own;
- plain export: `torch.onnx.export` on onnxruntime, nothing else;
- openvino: the plain export on OpenVINO's CPU plugin (extra `peers`);
- ort-cpu: `dabnet-export onnx --optimize-for ort-cpu` on onnxruntime;
- ort-cpu without X (--gains): ort-cpu without one of its graph passes.

The last column is the gain of a pass in rows of --gains: how much faster ort-cpu is than they. A
second table separates rounds in which the cores shared a cache from those in which they did not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import study
from core_latency import CoreWatch, rounds_by_cores

from bench.backends.base import Recipe
from bench.isolation import Isolated, ProcessFailed
from bench.measure.request import Scenario
from bench.measure.timer import Timer
from bench.record import Turn
from bench.record.timing import counted_turns, latency, speed_ratio
from dabnet.artifact import Artifact, open_checkpoint
from dabnet.console import progress_bar, run
from dabnet.runtime.openvino_runner import OpenVinoRunner
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from dabnet.runtime.runner import Uint8Array

EAGER, COMPILED, PLAIN = "pytorch eager", "torch.compile", "plain export"
OPENVINO, OURS = "openvino", "ort-cpu"
DENSE, DEPTHWISE = "Conv, dense", "Conv, depthwise"
IMAGES = 4  # inputs in turn, so that no cache of a result can flatter a row
PROFILED_CALLS = 8


class MaskTimer(Timer):
    """Also gives the masks of what it times."""

    def masks(self) -> list[Uint8Array]:
        return [self._lanes[0].runner.infer(batch) for batch in self._inputs]


def recipes(
    inputs: study.Inputs, threads: int, folder: Path, compiled: bool, gains: bool
) -> dict[str, Recipe]:
    """Export into ``folder`` what the rows run; return them by name, in the order of the table."""

    def of_pytorch(mode: str) -> Recipe:
        arguments = {"checkpoint": inputs.checkpoint, "given": None, "mode": mode}
        shape = (1, *inputs.size, 3)
        return Recipe(
            open_checkpoint, {**arguments, "shape": shape, "threads": threads}, inputs.checkpoint
        )

    def of_onnxruntime(path: Path) -> Recipe:
        return Recipe(OnnxRuntimeRunner, {"path": path, "threads": threads}, path)

    plain = inputs.export(folder / "plain.onnx")
    ours = inputs.export(folder / "ours.onnx", optimize_for=OURS)
    rows = {EAGER: of_pytorch("eager")}
    if compiled:
        rows[COMPILED] = of_pytorch("compiled")
    rows[PLAIN] = of_onnxruntime(plain)
    openvino = {"path": plain, "precision": "fp32", "threads": threads}
    rows[OPENVINO] = Recipe(OpenVinoRunner, openvino, plain)
    rows[OURS] = of_onnxruntime(ours)
    manifest = Artifact.open(ours).manifest
    for applied in manifest.passes if gains and manifest else ():
        path = folder / f"{applied.name}.onnx"
        inputs.export(path, optimize_for=OURS, without_passes=(applied.name,))
        rows[f"{OURS} without {applied.name}"] = of_onnxruntime(path)
    return rows


def agreements(timers: Mapping[str, Isolated]) -> dict[str, float]:
    """Share of pixels on which each row's masks equal those of PyTorch."""
    masks = {name: np.stack(timer.call("masks")) for name, timer in timers.items()}
    return {name: float(np.mean(found == masks[EAGER])) for name, found in masks.items()}


def table(
    turns: Mapping[str, list[Turn]], agrees: Mapping[str, float], reasons: Mapping[str, str]
) -> str:
    """Return the rows as Markdown; speeds are paired over rounds."""
    cells = []
    for name, own in turns.items():
        found = latency(own)
        cells.append([name, f"{100 * agrees[name]:.4f}", f"{found.p50_ms:.1f}" if found else ""])
        to_eager, to_ours = speed_ratio(turns[EAGER], own), speed_ratio(own, turns[OURS])
        cells[-1].append("reference" if name == EAGER else study.ratio_text(to_eager))
        cells[-1].append("" if name == OURS else study.ratio_text(to_ours))
    cells += [[name, f"not run: {reason}"] for name, reason in reasons.items()]
    headings = ("row", "agrees %", "p50 ms", f"speed to {EAGER} [95 %]")
    return study.markdown((*headings, "ort-cpu to this row [95 %]"), cells)


def cores_table(
    turns: Mapping[str, list[Turn]], groups: Mapping[str, tuple[float, set[int]]]
) -> str:
    """Tabulate how much faster ort-cpu is by the place of the cores; see ``core_latency``."""
    peers = [name for name in turns if name != OURS]
    words = {"shared": "share a cache", "apart": "share none"}
    cells = []
    for group, (nanoseconds, rounds) in groups.items():
        among = {name: [t for t in own if t.round in rounds] for name, own in turns.items()}
        ratios = [study.ratio_text(speed_ratio(among[name], among[OURS])) for name in peers]
        cells.append([f"{words[group]} ({nanoseconds:.0f} ns)", str(len(rounds)), *ratios])
    return study.markdown(("cores", "rounds", *(f"ort-cpu to {name}" for name in peers)), cells)


def milliseconds_by_kind(timer: Isolated, path: Path, threads: int) -> dict[str, float]:
    """Mean time of a call spent in each kind of operator of an ONNX row, the longest first."""
    depthwise, totals = depthwise_nodes(path, threads), defaultdict[str, float](float)
    for layer in timer.call("layer_times", PROFILED_CALLS):
        conv = DEPTHWISE if layer.name in depthwise else DENSE
        totals[conv if layer.kind == "Conv" else layer.kind] += 1e3 * layer.seconds
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


def depthwise_nodes(path: Path, threads: int) -> set[str]:
    """Names of the depthwise convolutions in the graph that onnxruntime makes of a file."""
    import onnx_ir as ir
    import onnxruntime

    optimised = path.with_suffix(".optimised.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # it warns that the file is for this machine alone
    options.optimized_model_filepath = str(optimised)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = ir.load(optimised).graph
    return {str(node.name) for node in graph if node.attributes.get_int("group", 1) > 1}


def profile_table(profiles: Mapping[str, Mapping[str, float]]) -> str:
    """Return the kinds as Markdown, a column per file; what is below 1 % everywhere is one row."""
    totals = {name: sum(kinds.values()) for name, kinds in profiles.items()}
    rows, others = dict[str, list[float]](), np.zeros(len(profiles))
    for kind in dict.fromkeys(kind for kinds in profiles.values() for kind in kinds):
        row = [kinds.get(kind, 0) for kinds in profiles.values()]
        if any(ms >= 0.01 * total for ms, total in zip(row, totals.values(), strict=True)):
            rows[kind] = row
        else:
            others += row
    rows |= {"others": list(others), "all": list(totals.values())}
    headings = ("operators", *(f"{name}, ms" for name in profiles))
    return study.markdown(headings, [[k, *(f"{ms:.1f}" for ms in row)] for k, row in rows.items()])


@study.command
@study.threads_option
@click.option("--rounds", type=click.IntRange(2), default=10, show_default=True)
@click.option("--round-seconds", type=float, default=2.0, show_default=True)
@click.option(
    "--compiled/--no-compiled", default=True, help="torch.compile takes minutes to start."
)
@click.option("--gains", is_flag=True, help="Also our export without each of its passes.")
@click.option("--profile", is_flag=True, help="Also the time of two rows by operator.")
def main(
    inputs: study.Inputs,
    threads: int,
    rounds: int,
    round_seconds: float,
    compiled: bool,
    gains: bool,
    profile: bool,
) -> None:
    scenario = Scenario(scopes=("host",), rounds=rounds, min_time_s=rounds * round_seconds)
    with TemporaryDirectory() as made, ExitStack() as stack:
        folder, watch = Path(made), CoreWatch()
        rows = recipes(inputs, threads, folder, compiled, gains)
        images = inputs.images(IMAGES)
        services = {name: (MaskTimer, (recipe, images)) for name, recipe in rows.items()}
        with progress_bar("opening", len(services), unit="rows") as step:
            timers, reasons = stack.enter_context(study.opened(services, folder, step))
        for name in (EAGER, PLAIN, OURS):  # what the others are compared with
            if name in reasons:
                raise ProcessFailed(f"{name}: {reasons[name]}")
        agrees = agreements(timers)
        with progress_bar("timing", rounds, unit="rounds") as step:
            turns = study.timed(timers, scenario, step, watch)
        profiles = {
            name: milliseconds_by_kind(timers[name], rows[name].artifact, threads)
            for name in ((PLAIN, OURS) if profile else ())
        }
    groups, others = rounds_by_cores(turns, watch.latencies), study.disturbed(turns)
    tables = [table(turns, agrees, reasons), *([cores_table(turns, groups)] if groups else [])]
    click.echo("\n\n".join([*tables, *([profile_table(profiles)] if profiles else [])]))
    facts = (
        f"batch 1, host to host, FP32, {threads} threads, {rounds} rounds of {round_seconds:g} s"
    )
    content = {
        "size": inputs.size,
        "threads": threads,
        "reasons": reasons,
        "disturbed_turns": others,
        "milliseconds_by_kind": profiles,
        "cores": {
            name: {"latency_ns": latency_ns, "rounds": sorted(numbers)}
            for name, (latency_ns, numbers) in groups.items()
        },
        "rows": {
            name: {
                "agreement": agrees[name],
                "rounds_ns": [turn.samples_ns for turn in counted_turns(own)],
            }
            for name, own in turns.items()
        },
    }
    study.conclude(f"{inputs.subject}, {facts}", inputs.record, content, turns=others)


if __name__ == "__main__":
    run(main)
