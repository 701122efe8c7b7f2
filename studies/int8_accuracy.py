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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import study
from int8_peers import PEERS, quantised_by

from bench.measure.accuracy import Scored
from calibration.calibrate import quantize
from calibration.placements import DEFAULT_PLACEMENT, PLACEMENTS
from calibration.ranges import DEFAULT_METHOD, METHODS
from dabnet.artifact import Artifact
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
DEFAULT = f"{DEFAULT_PLACEMENT}, {DEFAULT_METHOD}"
AGAIN = "default, other sums"
"""The default's own file in a session that adds in another order: no row, but the rows' noise."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A graph that is ready to be scored.

    Attributes:
        runner: computes its masks.
        tool: what quantised it, and its version.
        int8, convolutions: how many convolutions are int8, of how many.
    """

    runner: OnnxRuntimeRunner
    tool: str
    int8: int
    convolutions: int


class Candidates:
    """One checkpoint, quantised in every way.

    Args:
        inputs: the checkpoint, its data set and the size.
        spec: size and calibration images of all.
        threads: of onnxruntime.
        at: an empty folder.
    """

    def __init__(self, inputs: study.Inputs, spec: ExportSpec, threads: int, at: Path) -> None:
        self._inputs, self._spec, self._threads, self._at = inputs, spec, threads, at
        self._fp32 = inputs.export(at / "fp32.onnx")

    def opened(self, peers: bool) -> tuple[dict[str, Candidate], dict[str, str]]:
        """Return what can be scored, in the order of the table, and why the rest cannot."""
        found = {FP32: self._opened(self._fp32)}
        for name, model in self._ours():
            found[name] = self._opened(self._written(name, model))
        again = self._opened(self._at / f"{DEFAULT}.onnx", exact=False)
        if not again.runner.fuses_int8:  # else it would not be exact
            found[AGAIN] = again
        images, reasons = self._at / "images.npy", {}
        if peers:
            wanted = self._spec.calibration_images, self._spec.size
            source = calibration_source(self._inputs.dataset, self._inputs.data_dir, *wanted)
            np.save(images, np.stack([item.image for item in source]))
        for name in PEERS if peers else ():
            output = self._at / f"{name} raw.onnx"
            try:
                with progress_bar(name, 1) as step:
                    tool = quantised_by(name, self._fp32, images, output)
                    step()
                found[name] = self._opened(self._written(name, load_onnx(output)), tool)
            except DabnetError as error:
                reasons[name] = str(error)
        return found, reasons

    def _ours(self) -> Iterator[tuple[str, Any]]:
        """Name and graph of each of our rows."""
        from dabnet.checkpoint import load_checkpoint
        from export.int8.quantise import Int8Export
        from export.onnx_export import float_graph

        spec, checkpoint = self._spec, load_checkpoint(self._inputs.checkpoint)
        graph, sha256 = float_graph(checkpoint, spec), sha256_of_file(self._inputs.checkpoint)
        source = (checkpoint, sha256, self._inputs.data_dir)
        ours = Int8Export(graph.model, graph.logits, *source, spec, progress_bar)
        calibration = ours.collected(ours.images(spec.calibration_images))
        for method in METHODS:
            ranges = calibration.ranges(method)
            for placement in PLACEMENTS:
                model, _ = quantize(graph.model, ranges, placement=placement)
                yield f"{placement}, {method}", model
        model, _ = replace(ours, spec=replace(spec, fit_weights=True)).run(self._at / DEFAULT)
        yield f"{DEFAULT} + fit-weights", model

    def _written(self, name: str, model: Any) -> Path:
        """The graph as an artifact, which a runner takes."""
        manifest, path = Artifact.open(self._fp32).manifest, self._at / f"{name}.onnx"
        assert manifest is not None
        save_onnx(with_manifest(model, replace(manifest, precision=INT8)), path)
        return path

    def _opened(self, path: Path, tool: str = "dabnet-export", exact: bool = True) -> Candidate:
        runner = OnnxRuntimeRunner(path, threads=self._threads, exact_qdq=exact)
        return Candidate(runner, tool, *int8_convolutions(path))


def int8_convolutions(path: Path) -> tuple[int, int]:
    """Count the convolutions that read dequantised images and weights, and all."""
    import onnx_ir as ir

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
    scores: Mapping[str, Scored], candidates: Mapping[str, Candidate], reasons: Mapping[str, str]
) -> str:
    """Return the rows as Markdown."""
    rows, reference = [], scores[FP32].per_image
    for name, score in scores.items():
        total, candidate = score.per_image.sum(0), candidates[name]
        cells = [name, f"{100 * mean_iou(total):.2f}", "reference"]
        if name != FP32:
            drops = class_iou(total) - class_iou(reference.sum(0))
            worst = int(np.nanargmin(drops))
            of_worst = f"{candidate.runner.manifest.classes[worst]} {100 * drops[worst]:+.2f}"
            cells[2] = points(miou_difference(score.per_image, reference))
            cells += [agreement(score), of_worst, f"{candidate.int8} of {candidate.convolutions}"]
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
        candidates, reasons = Candidates(inputs, spec, threads, Path(folder)).opened(peers)
        runners = {name: candidate.runner for name, candidate in candidates.items()}
        with progress_bar("accuracy", len(scored)) as step:
            scores = scores_of(runners, scored, step)
    click.echo("\n".join([table(scores, candidates, reasons), "", *remarks(scores)]))
    rows = {
        name: {
            "tool": candidates[name].tool,
            "arithmetic": score.arithmetic,
            "int8_convolutions": candidates[name].int8,
            "per_image": score.per_image.tolist(),
            "agreement": score.agreement.tolist() if score.agreement is not None else [],
        }
        for name, score in scores.items()
    }
    facts = (
        f"{inputs.subject}; calibrated on {calibration_images} images of {val.name} train, scored"
        f" on {scored.description}; {', '.join(sorted({c.tool for c in candidates.values()}))}"
    )
    counts = {"images": len(scored), "calibration_images": calibration_images}
    content = {"size": inputs.size, **counts, "reasons": reasons, "rows": rows}
    study.conclude(facts, inputs.record, content)


if __name__ == "__main__":
    run(main)
