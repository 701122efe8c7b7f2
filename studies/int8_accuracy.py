"""Accuracy that INT8 costs: each calibration method on each placement, and other tools.

    python studies/int8_accuracy.py --checkpoint weights/dabnet_camvid.pth \
        --data-dir path/to/camvid --size 360x480

All rows are quantised on the same training images and scored on the same validation images, in one
run and in exact Q/DQ arithmetic, so that none depends on this machine's int8 kernels:

- ours: `calibration.ranges` × `calibration.placements`, from one pass over the images;
- onnxruntime, NNCF and nvidia-modelopt with their defaults, on the plain export (extra `peers`).

Differences are to the FP32 export, paired over images. A line below the table reports how far two
exact runs of one file differ: rounding to int8 makes a step of the last bit of a sum, and
onnxruntime adds in another order where it keeps the weights in int8.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import click
import numpy as np
import onnx_ir as ir
import study
from int8_peers import PEERS, quantised_by

from bench.measure.accuracy import Scored
from calibration.calibrate import quantize
from calibration.calibration_file import save_calibration
from calibration.placements import DEFAULT_PLACEMENT, PLACEMENTS
from calibration.ranges import DEFAULT_METHOD, METHODS
from dabnet.console import progress_bar, run
from dabnet.data.images import SizedImages, calibration_source
from dabnet.data.registry import open_dataset
from dabnet.errors import DabnetError
from dabnet.files import sha256_of_file
from dabnet.graph.facts import is_op, nodes_of
from dabnet.intervals import Interval, miou_difference
from dabnet.metrics import Counts, class_iou, confusion, mean_iou
from dabnet.precision import INT8
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from export.onnx_file import load_onnx, save_onnx, with_manifest
from export.spec import ExportSpec

FP32 = "FP32"
OURS = "dabnet-export"
DEFAULT = f"{DEFAULT_PLACEMENT}, {DEFAULT_METHOD}"
AGAIN = "default, other sums"
"""The default's own file in a session that adds in another order: no row, but the rows' noise."""


class Row(NamedTuple):
    """A file, what quantised it, and the runner of its exact arithmetic."""

    path: Path
    tool: str
    runner: OnnxRuntimeRunner


def quantised(
    inputs: study.Inputs, spec: ExportSpec, threads: int, folder: Path, peers: bool
) -> tuple[dict[str, Row], dict[str, str]]:
    """Quantise in every way; return what can be scored, and why the rest cannot.

    Args:
        spec: size and calibration images of all.
        threads: of onnxruntime.
        folder: an empty one, for the files.
        peers: whether other tools quantise too.
    """
    fp32, images = inputs.export(folder / "fp32.onnx"), folder / "images.npy"
    first = OnnxRuntimeRunner(fp32, threads=threads)
    found, reasons = {FP32: Row(fp32, OURS, first)}, dict[str, str]()

    def add(name: str, model: ir.Model, tool: str) -> None:
        path, manifest = folder / f"{name}.onnx", replace(first.manifest, precision=INT8)
        save_onnx(with_manifest(model, manifest), path)
        found[name] = Row(path, tool, OnnxRuntimeRunner(path, threads=threads, exact_qdq=True))

    for name, model in ours(inputs, spec, folder):
        add(name, model, OURS)
    again = OnnxRuntimeRunner(found[DEFAULT].path, threads=threads)
    if not again.fuses_int8:  # else it would not be exact
        found[AGAIN] = found[DEFAULT]._replace(runner=again)
    if peers:
        count = spec.calibration_images
        source = calibration_source(inputs.dataset, inputs.data_dir, count, inputs.size)
        np.save(images, np.stack([item.image for item in source]))
    for name in PEERS if peers else ():
        output = folder / f"{name} raw.onnx"
        try:
            with progress_bar(name, 1) as step:
                tool = quantised_by(name, fp32, images, output)
                step()
            add(name, load_onnx(output), tool)
        except DabnetError as error:
            reasons[name] = str(error)
    return found, reasons


def ours(inputs: study.Inputs, spec: ExportSpec, folder: Path) -> Iterator[tuple[str, ir.Model]]:
    """Name and graph of each of our rows."""
    from dabnet.checkpoint import load_checkpoint
    from export.int8.quantise import Int8Export
    from export.onnx_export import float_graph

    checkpoint, sha256 = load_checkpoint(inputs.checkpoint), sha256_of_file(inputs.checkpoint)
    graph, source = float_graph(checkpoint, spec), (checkpoint, sha256, inputs.data_dir)
    export = Int8Export(graph.model, graph.logits, *source, spec, progress_bar)
    calibration = export.collected(export.images(spec.calibration_images))
    for method in METHODS:
        ranges = calibration.ranges(method)
        for placement in PLACEMENTS:
            model, _ = quantize(graph.model, ranges, placement=placement)
            yield f"{placement}, {method}", model
    kept = folder / "calibration.json"  # so that the images are not collected again
    save_calibration(calibration, kept)
    fitted = replace(spec, fit_weights=True, calibration_file=kept)
    model, _ = replace(export, spec=fitted).run(folder / "fitted")
    yield f"{DEFAULT} + fit-weights", model


def int8_convolutions(path: Path) -> tuple[int, int]:
    """Count the convolutions that read dequantised images and weights, and all."""

    def is_dequantised(value: ir.Value | None) -> bool:
        node = value.producer() if value else None
        while node is not None and is_op(node, "Cast"):
            node = node.inputs[0].producer() if node.inputs[0] else None
        return is_op(node, "DequantizeLinear")

    convolutions = nodes_of(ir.load(path).graph, "Conv")
    return sum(all(map(is_dequantised, n.inputs[:2])) for n in convolutions), len(convolutions)


def scores_of(
    runners: Mapping[str, OnnxRuntimeRunner], images: SizedImages, step: Callable[[], None]
) -> dict[str, Scored]:
    """Run every runner on each image, and compare its mask with that of FP32; of AGAIN, DEFAULT."""
    classes, names = len(images.dataset.labels.classes), list[str]()
    matrices, equal = defaultdict[str, list[Counts]](list), defaultdict[str, list[float]](list)
    for item in images:
        masks = {name: runner.infer(item.image[None])[0] for name, runner in runners.items()}
        for name, mask in masks.items():
            matrices[name].append(confusion(mask, item.label, classes))
            other = masks[DEFAULT if name == AGAIN else FP32]
            equal[name].append(float((mask == other).mean()))
        names.append(item.name)
        step()
    return {
        name: Scored(
            tuple(names),
            runner.info.arithmetic,
            np.stack(matrices[name]),
            agreement=np.array(equal[name]),
        )
        for name, runner in runners.items()
    }


def table(
    scores: Mapping[str, Scored],
    classes: Sequence[str],
    int8: Mapping[str, tuple[int, int]],
    reasons: Mapping[str, str],
) -> str:
    """Return the rows as Markdown; ``int8`` is what ``int8_convolutions`` counted in each."""
    rows, reference = [], scores[FP32].per_image
    for name, score in scores.items():
        total = score.per_image.sum(0)
        cells = [name, f"{100 * mean_iou(total):.2f}", "reference"]
        if name != FP32:
            drops = class_iou(total) - class_iou(reference.sum(0))
            worst = int(np.nanargmin(drops))
            cells[2:] = [points(miou_difference(score.per_image, reference)), agreement(score)]
            cells.append(f"{classes[worst]} {100 * drops[worst]:+.2f}")
            cells.append(f"{int8[name][0]} of {int8[name][1]}")
        if name != AGAIN:
            rows.append(cells)
    rows += [[name, f"not run: {reason}"] for name, reason in reasons.items()]
    headings = ("row", "mIoU %", "Δ to FP32 [95 %]", "agrees %", "worst class, Δ IoU")
    return study.markdown((*headings, "int8 convolutions"), rows)


def points(d: Interval) -> str:
    """A difference of shares in percentage points with its interval."""
    return f"{100 * d.value:+.2f} [{100 * d.low:+.2f}, {100 * d.high:+.2f}]"


def agreement(score: Scored) -> str:
    """Share of equal pixels in percent."""
    return "" if score.agreement is None else f"{100 * score.agreement.mean():.2f}"


def remarks(scores: Mapping[str, Scored]) -> Iterator[str]:
    """Report how far two exact runs of the default differ, and how int8 was computed."""
    if AGAIN in scores:
        d = miou_difference(scores[AGAIN].per_image, scores[DEFAULT].per_image)
        yield (
            f"{DEFAULT} once more, its sums in another order: the same mask on"
            f" {agreement(scores[AGAIN])} % of pixels, mIoU {points(d)};"
            " what differs less is the same."
        )
    for words in sorted({score.arithmetic for score in scores.values()} - {""}):
        names = [n for n, score in scores.items() if score.arithmetic == words and n != AGAIN]
        few = len(names) <= len(PLACEMENTS)
        yield f"computed in {words}: {'; '.join(names) if few else f'{len(names)} rows'}"


@study.command
@click.option("--images", type=click.IntRange(1), help="Images to score.  [default: all of val]")
@click.option("--calibration-images", type=click.IntRange(1), default=48, show_default=True)
@study.threads_option
@click.option("--peers/--no-peers", default=True, help="Other tools, which take minutes.")
def main(
    inputs: study.Inputs, images: int | None, calibration_images: int, threads: int, peers: bool
) -> None:
    spec = ExportSpec(inputs.size, INT8, calibration_images=calibration_images)
    val = open_dataset(inputs.dataset, "val", inputs.data_dir, inputs.size)
    scored = SizedImages.first(val, inputs.size, images)
    with TemporaryDirectory() as folder:
        found, reasons = quantised(inputs, spec, threads, Path(folder), peers)
        runners = {name: row.runner for name, row in found.items()}
        int8 = {name: int8_convolutions(row.path) for name, row in found.items()}
        with progress_bar("accuracy", len(scored)) as step:
            scores = scores_of(runners, scored, step)
    written = table(scores, val.labels.classes, int8, reasons)
    click.echo("\n".join([written, "", *remarks(scores)]))
    rows = {
        name: {
            "tool": found[name].tool,
            "arithmetic": score.arithmetic,
            "int8_convolutions": int8[name][0],
            "per_image": score.per_image.tolist(),
            "agreement": score.agreement.tolist() if score.agreement is not None else [],
        }
        for name, score in scores.items()
    }
    facts = (
        f"{inputs.subject}; calibrated on {calibration_images} images of {val.name} train, scored"
        f" on {scored.description}; {', '.join(sorted({row.tool for row in found.values()}))}"
    )
    counts = {"images": len(scored), "calibration_images": calibration_images}
    content = {"size": inputs.size, **counts, "reasons": reasons, "rows": rows}
    study.conclude(facts, inputs.record, content)


if __name__ == "__main__":
    run(main)
