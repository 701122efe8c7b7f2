"""Plans that TensorRT-RTX makes of our graphs: kernels, memory traffic and types, without a GPU.

    python studies/engine_plans.py                      # all graphs, precisions and targets
    python studies/engine_plans.py --gains              # what each pass saves on one target
    python studies/engine_plans.py --masks --checkpoint weights/dabnet_camvid.pth \
        --data-dir path/to/camvid --size 360x480        # and that the masks stay

Every engine is really built, and read from its layer report: a kernel counts each tensor that it
reads and writes once, constants apart. Modelled times come from data sheets; nothing runs on a GPU.
Masks are computed in exact arithmetic, each tensor rounded to its type.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import study

from dabnet.console import progress_bar, run
from dabnet.data.images import SizedImages
from dabnet.data.registry import open_dataset
from dabnet.intervals import miou_difference
from dabnet.metrics import Counts, confusion, mean_iou
from dabnet.precision import EXPORTED, FP32
from dabnet.runtime.trt.product import TENSORRT_RTX, find_product
from export.agreement import exact_runner
from export.engine.plan import PlanSummary, plan_of_onnx
from export.onnx_file import load_onnx, manifest_of

OURS = "tensorrt-rtx"
GRAPHS = ("portable", "tensorrt", OURS)
TARGETS = ("sm75", "sm86", "sm89", "sm120")
CARD = "rtx-3090"
GAINS_FOR = "sm86"
FEW = 4  # calibration images: a plan does not depend on the ranges

Plans = dict[tuple[str, str], dict[str, PlanSummary]]
"""(graph, precision) → target → plan."""


def plans(inputs: study.Inputs, targets: tuple[str, ...], folder: Path) -> Plans:
    """Export each graph in each precision, and build it for each target."""
    found: Plans = {}
    with progress_bar("building", len(GRAPHS) * len(EXPORTED) * len(targets), "engines") as step:
        for graph in GRAPHS:
            for precision in EXPORTED:
                path = exported(inputs, folder / f"{graph}-{precision}.onnx", graph, precision)
                found[graph, precision] = {}
                for target in targets:
                    found[graph, precision][target] = plan_of_onnx(path, target)
                    step()
    return found


def exported(
    inputs: study.Inputs, path: Path, graph: str, precision: str, *without: str, images: int = FEW
) -> Path:
    """A graph for a target; only its plan is read, so that it need not agree with PyTorch."""
    return inputs.export(
        path,
        precision=precision,
        optimize_for=graph,
        without_passes=without,
        calibration_images=images,
        minimum_agreement=0.0,
    )


def gains(inputs: study.Inputs, folder: Path) -> Iterator[list[str]]:
    """A row per pass that is left out."""
    for precision in EXPORTED:
        path = exported(inputs, folder / f"gain-{precision}.onnx", OURS, precision)
        whole = plan_of_onnx(path, GAINS_FOR)
        yield ["all passes", precision, *figures(whole), ""]
        for applied in manifest_of(load_onnx(path), str(path)).passes:
            if applied.name == "float16":
                continue
            less = exported(inputs, folder / "less.onnx", OURS, precision, applied.name)
            found = plan_of_onnx(less, GAINS_FOR)
            more = (found.activation_bytes - whole.activation_bytes) / 1e6
            kernels = found.kernels - whole.kernels
            yield [
                f"without `{applied.name}`",
                precision,
                *figures(found),
                f"{kernels:+d} kernels, {more:+.1f} MB",
            ]


def figures(plan: PlanSummary) -> list[str]:
    """Kernels, traffic, constants and modelled time of a plan."""
    moved, constants = (b / 1e6 for b in (plan.activation_bytes, plan.constant_bytes))
    time = plan.modelled_ms[CARD]
    return [str(plan.kernels), f"{moved:.1f}", f"{constants:.1f}", f"{time:.3f}"]


def table(found: Plans) -> str:
    """A row per graph, precision and target; ratios to the portable graph beside it."""
    rows = []
    for (graph, precision), by_target in found.items():
        for target, plan in by_target.items():
            before = found["portable", precision][target]
            ratio = before.activation_bytes / plan.activation_bytes
            types = ", ".join(f"{kind} {count}" for kind, count in plan.convolutions.items())
            less = "" if graph == "portable" else f"1/{ratio:.2f}"
            rows.append([graph, precision, target, *figures(plan), less, types])
    headings = ("graph", "precision", "target", "kernels", "MB", "constants MB")
    more = (f"modelled ms, {CARD}", "MB to portable", "convolutions")
    return study.markdown((*headings, *more), rows)


def masks(
    inputs: study.Inputs, count: int | None, calibration: int, folder: Path
) -> Iterator[list[str]]:
    """A row per precision of our graph: mIoU, and the pixels that equal FP32's portable graph."""
    data = open_dataset(inputs.dataset, "val", inputs.data_dir, inputs.size)
    images, classes = SizedImages.first(data, inputs.size, count), len(data.labels.classes)
    files = {"portable fp32": exported(inputs, folder / "masks.onnx", "portable", FP32)}
    for precision in EXPORTED:
        path = folder / f"masks-{precision}.onnx"
        files[f"{OURS} {precision}"] = exported(inputs, path, OURS, precision, images=calibration)
    runs = {name: exact_runner(load_onnx(path)) for name, path in files.items()}
    matrices, equal = defaultdict[str, list[Counts]](list), defaultdict[str, list[float]](list)
    with progress_bar("masks", len(images)) as step:
        for item in images:
            found = {name: run(item.image[None])[0][0] for name, run in runs.items()}
            for name, mask in found.items():
                matrices[name].append(confusion(mask, item.label, classes))
                equal[name].append(float((mask == found["portable fp32"]).mean()))
            step()
    reference = np.stack(matrices["portable fp32"])
    for name in files:
        own = np.stack(matrices[name])
        d = miou_difference(own, reference)
        points = f"{100 * d.value:+.2f} [{100 * d.low:+.2f}, {100 * d.high:+.2f}]"
        share = f"{100 * np.mean(equal[name]):.4f}"
        yield [name, f"{100 * mean_iou(own.sum(0)):.2f}", points, share]


@study.command
@click.option("--targets", default=",".join(TARGETS), show_default=True)
@click.option("--gains", "only_gains", is_flag=True, help="What each pass saves instead.")
@click.option("--masks", "only_masks", is_flag=True, help="Accuracy instead.")
@click.option("--images", type=click.IntRange(1), help="Images to score.  [default: all of val]")
@click.option("--calibration-images", type=click.IntRange(1), default=48, show_default=True)
def main(
    inputs: study.Inputs,
    targets: str,
    only_gains: bool,
    only_masks: bool,
    images: int | None,
    calibration_images: int,
) -> None:
    content: dict[str, object] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        if only_masks:
            rows = list(masks(inputs, images, calibration_images, folder))
            content["masks"] = rows
            click.echo(study.markdown(("graph", "mIoU %", "Δ to FP32 [95 %]", "agrees %"), rows))
        elif only_gains:
            rows = list(gains(inputs, folder))
            content["gains"] = rows
            headings = ("graph", "precision", "kernels", "MB", "constants MB")
            more = (f"modelled ms, {CARD}", "more than with all")
            click.echo(study.markdown((*headings, *more), rows))
        else:
            found = plans(inputs, tuple(targets.split(",")), folder)
            click.echo(table(found))
            content["plans"] = [
                {"graph": graph, "precision": precision, "target": target}
                | {"kernels": plan.kernels, "activation_bytes": plan.activation_bytes}
                | {"constant_bytes": plan.constant_bytes, "convolutions": plan.convolutions}
                | {"modelled_ms": plan.modelled_ms, "faults": plan.faults}
                for (graph, precision), by_target in found.items()
                for target, plan in by_target.items()
            ]
    product = find_product(TENSORRT_RTX)
    facts = f"{inputs.subject}; {product}; kernels and MB are of real builds, times are modelled"
    study.conclude(facts, inputs.record, content)


if __name__ == "__main__":
    run(main)
