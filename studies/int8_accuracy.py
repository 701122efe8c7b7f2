"""Accuracy that INT8 costs: each calibration method on each placement, and other tools.

    python studies/int8_accuracy.py --checkpoint weights/dabnet_camvid.pth \
        --data-dir path/to/camvid --size 360x480

All rows are quantised on the same training images and scored on the same validation images, in one
run and in exact Q/DQ arithmetic, so that none depends on this machine's int8 kernels:

- ours: `calibration.ranges` × `calibration.placements`, from one pass over the images;
- onnxruntime, NNCF and nvidia-modelopt with their defaults, on the plain export (extra `peers`).

Differences are to the FP32 export, paired over images. How far two exact runs of one file differ is
said below the table: rounding to int8 makes a step of the last bit of a sum, and onnxruntime adds
in another order where it keeps the weights in int8.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import onnx
import torch
from int8_peers import PEERS, quantised_by
from numpy.typing import NDArray
from study import input_options, keep, markdown

from calibration.calibrate import quantize
from calibration.placements import DEFAULT_PLACEMENT, PLACEMENTS, is_conv
from calibration.ranges import DEFAULT_METHOD, METHODS
from dabnet.checkpoint import load_checkpoint
from dabnet.console import CONTEXT, progress_bar, run
from dabnet.data.dataset import Dataset
from dabnet.data.images import SizedImages, calibration_source
from dabnet.data.registry import open_dataset
from dabnet.data.transforms import resize
from dabnet.errors import DabnetError
from dabnet.files import sha256_of_file
from dabnet.intervals import miou_difference
from dabnet.metrics import Counts, class_iou, confusion, mean_iou
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from dabnet.runtime.runner import Runner
from export.int8.quantise import Int8Export
from export.onnx_export import export_onnx, float_graph
from export.onnx_file import load_onnx, manifest_of, save_onnx, with_manifest
from export.spec import ExportSpec


@dataclass(frozen=True, slots=True)
class Scores:
    """What one runner saw.

    Attributes:
        per_image: confusion matrices, int64 (images, K, K).
        agreement: share of pixels equal to another runner's, one an image; None without another.
    """

    per_image: Counts
    agreement: NDArray[np.float64] | None


def scores_of(
    runners: Mapping[str, Runner],
    compared_with: Mapping[str, str],
    dataset: Dataset,
    size: tuple[int, int],
    images: int,
    step: Callable[[], None],
) -> dict[str, Scores]:
    """Run every runner on the first ``images`` images of the split, resized to ``size``.

    ``compared_with`` names for a runner the other one whose masks its own are compared with.
    """
    classes = len(dataset.labels.classes)
    matrices: dict[str, list[Counts]] = {name: [] for name in runners}
    equal: dict[str, list[float]] = {name: [] for name in compared_with}
    for index in range(images):
        item = resize(dataset[index], size)
        masks = {name: runner.infer(item.image[None])[0] for name, runner in runners.items()}
        for name, mask in masks.items():
            matrices[name].append(confusion(mask, item.label, classes))
        for name, other in compared_with.items():
            equal[name].append(float((masks[name] == masks[other]).mean()))
        step()
    return {
        name: Scores(np.stack(matrices[name]), np.array(equal[name]) if name in equal else None)
        for name in runners
    }


FP32 = "FP32"
DEFAULT = f"{DEFAULT_PLACEMENT}, {DEFAULT_METHOD}"
AGAIN = "default, other sums"
"""The default's own file in a session that adds in another order: no row, but the rows' noise."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A graph that is ready to be scored.

    Attributes:
        runner: what computes its masks.
        tool: what quantised it, and its version.
        int8, convolutions: how many convolutions are int8, of how many.
    """

    runner: OnnxRuntimeRunner
    tool: str
    int8: int
    convolutions: int


class Bench:
    """Quantises one checkpoint in every way, into a folder.

    Args:
        checkpoint: its file.
        data_dir: folder of its data set.
        spec: size and calibration images of all.
        threads: of onnxruntime.
        at: an empty folder.
    """

    def __init__(
        self, checkpoint: Path, data_dir: Path | None, spec: ExportSpec, threads: int, at: Path
    ) -> None:
        self._checkpoint, self._data_dir = checkpoint, data_dir
        self._spec, self._threads, self._at = spec, threads, at
        self._dataset = load_checkpoint(checkpoint).dataset
        self._fp32 = at / "fp32.onnx"
        plain = dataclasses.replace(spec, precision="fp32", check_images=1)
        export_onnx(checkpoint, self._fp32, plain, data_dir=data_dir, progress=progress_bar)

    def candidates(self, peers: bool) -> tuple[dict[str, Candidate], dict[str, str]]:
        """Return what can be scored, in the order of the table, and why the rest cannot."""
        found = {FP32: self._opened(self._fp32)}
        for name, model in self._ours():
            found[name] = self._opened(self._written(name, model))
        again = self._opened(self._at / f"{DEFAULT}.onnx", exact=False)
        if not again.runner.fuses_int8:  # else it would not be exact
            found[AGAIN] = again
        reasons = {}
        for name in PEERS if peers else ():
            try:
                tool, model = self._by_peer(name)
                found[name] = self._opened(self._written(name, model), tool)
            except DabnetError as error:
                reasons[name] = str(error)
        return found, reasons

    def _ours(self) -> Iterator[tuple[str, onnx.ModelProto]]:
        spec, checkpoint = self._spec, load_checkpoint(self._checkpoint)
        graph, sha256 = float_graph(checkpoint, spec), sha256_of_file(self._checkpoint)
        source = (checkpoint, sha256, self._data_dir)
        ours = Int8Export(graph.model, graph.logits, *source, spec, progress_bar)
        calibration = ours.collected(self._images())
        for method in METHODS:
            ranges = calibration.ranges(method)
            for placement in PLACEMENTS:
                model, _ = quantize(graph.model, ranges, placement=placement)
                yield f"{placement}, {method}", model
        fitted = dataclasses.replace(ours, spec=dataclasses.replace(spec, fit_weights=True))
        model = fitted.run(self._at / DEFAULT).model
        yield f"{DEFAULT} + fit-weights", model

    def _by_peer(self, name: str) -> tuple[str, onnx.ModelProto]:
        images = self._at / "images.npy"
        if not images.exists():
            np.save(images, np.stack([item.image for item in self._images()]))
        output = self._at / f"{name} raw.onnx"
        with progress_bar(name, 1) as step:
            tool = quantised_by(name, self._fp32, images, output)
            step()
        return tool, load_onnx(output)

    def _images(self) -> SizedImages:
        count, size = self._spec.calibration_images, self._spec.size
        return calibration_source(self._dataset, self._data_dir, count, size)

    def _written(self, name: str, model: onnx.ModelProto) -> Path:
        """The graph as an artifact, which a runner takes."""
        manifest = manifest_of(load_onnx(self._fp32), FP32)
        path = self._at / f"{name}.onnx"
        save_onnx(with_manifest(model, dataclasses.replace(manifest, precision="int8")), path)
        return path

    def _opened(self, path: Path, tool: str = "dabnet-export", exact: bool = True) -> Candidate:
        runner = OnnxRuntimeRunner(path, threads=self._threads, exact_qdq=exact)
        return Candidate(runner, tool, *int8_convolutions(load_onnx(path)))


def int8_convolutions(model: onnx.ModelProto) -> tuple[int, int]:
    """How many convolutions read dequantised images and weights, of how many."""
    producers = {name: node for node in model.graph.node for name in node.output}

    def dequantised(name: str) -> bool:
        node = producers.get(name)
        while node is not None and node.op_type == "Cast":
            node = producers.get(node.input[0])
        return node is not None and node.op_type == "DequantizeLinear"

    convolutions = [node for node in model.graph.node if is_conv(node)]
    return sum(all(map(dequantised, n.input[:2])) for n in convolutions), len(convolutions)


def table(
    scores: dict[str, Scores], candidates: dict[str, Candidate], reasons: dict[str, str]
) -> str:
    """Return the rows as Markdown."""
    headings = ("row", "mIoU %", "Δ to FP32 [95 %]", "agrees %", "worst class, Δ IoU")
    headings += ("int8 convolutions",)
    rows = []
    classes = candidates[FP32].runner.manifest.classes
    reference = scores[FP32].per_image
    for name, score in scores.items():
        if name == AGAIN:
            continue
        total, agrees = score.per_image.sum(0), score.agreement
        cells = [name, f"{100 * mean_iou(total):.2f}", "reference", "", "", ""]
        if name != FP32:
            d, candidate = miou_difference(score.per_image, reference), candidates[name]
            drops = class_iou(total) - class_iou(reference.sum(0))
            worst = int(np.nanargmin(drops))
            cells[2] = f"{100 * d.value:+.2f} [{100 * d.low:+.2f}, {100 * d.high:+.2f}]"
            cells[3] = f"{100 * agrees.mean():.2f}" if agrees is not None else ""
            cells[4] = f"{classes[worst]} {100 * drops[worst]:+.2f}"
            cells[5] = f"{candidate.int8} of {candidate.convolutions}"
        rows.append(cells)
    rows += [[name, f"not run: {reason}"] for name, reason in reasons.items()]
    return markdown(headings, rows)


def noise(scores: dict[str, Scores]) -> str:
    """Say how far two exact runs of the default differ."""
    one, other = scores[DEFAULT].per_image, scores[AGAIN]
    d, agrees = miou_difference(other.per_image, one), other.agreement
    assert agrees is not None
    return (
        f"{DEFAULT} once more, its sums in another order: the same mask on"
        f" {100 * agrees.mean():.2f} % of pixels, mIoU {100 * d.value:+.2f}"
        f" [{100 * d.low:+.2f}, {100 * d.high:+.2f}]; what differs less is the same."
    )


@click.command(context_settings=CONTEXT, help=__doc__.split("\n\n", 1)[0])
@input_options
@click.option("--images", type=click.IntRange(1), help="Images to score.  [default: all of val]")
@click.option("--calibration-images", type=click.IntRange(1), default=48, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=torch.get_num_threads())
@click.option("--peers/--no-peers", default=True, help="Other tools, which take minutes.")
def benchmark(
    checkpoint: Path,
    data_dir: Path | None,
    size: tuple[int, int],
    images: int | None,
    calibration_images: int,
    threads: int,
    peers: bool,
    record: Path | None,
) -> None:
    spec = ExportSpec(size, "int8", calibration_images=calibration_images)
    val = open_dataset(load_checkpoint(checkpoint).dataset, "val", data_dir, size)
    count = min(images or len(val), len(val))
    with TemporaryDirectory() as folder:
        bench = Bench(checkpoint, data_dir, spec, threads, Path(folder))
        candidates, reasons = bench.candidates(peers)
        runners = {name: candidate.runner for name, candidate in candidates.items()}
        arithmetic = {name: runner.info.arithmetic for name, runner in runners.items()}
        compared = {name: DEFAULT if name == AGAIN else FP32 for name in runners}
        with progress_bar("accuracy", count) as step:
            scores = scores_of(runners, compared, val, size, count, step)
    click.echo(table(scores, candidates, reasons) + "\n")
    if AGAIN in scores:
        click.echo(noise(scores))
    click.echo(
        f"{checkpoint.name}, {size[0]}x{size[1]}; calibrated on {calibration_images} images of"
        f" {val.name} train, scored on {count} of {val.name} val; "
        + ", ".join(sorted({c.tool for c in candidates.values()}))
    )
    for words in sorted(set(filter(None, arithmetic.values()))):
        names = [n for n, given in arithmetic.items() if given == words and n != AGAIN]
        click.echo(f"computed in {words}: {_listed(names)}")
    rows = {
        name: {
            "tool": candidates[name].tool,
            "arithmetic": arithmetic[name],
            "int8_convolutions": candidates[name].int8,
            "per_image": score.per_image.tolist(),
            "agreement": score.agreement.tolist() if score.agreement is not None else [],
        }
        for name, score in scores.items()
    }
    content = {"images": count, "calibration_images": calibration_images}
    keep(record, size, content | {"reasons": reasons, "rows": rows})


def _listed(names: list[str]) -> str:
    return "; ".join(names) if len(names) <= len(PLACEMENTS) else f"{len(names)} rows"


if __name__ == "__main__":
    run(benchmark)
