"""The INT8 part of an export: whose statistics, which ranges, what is rounded.

The accuracy budget of an export: which layers of this checkpoint stay in float.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from calibration.calibrate import calibrate, quantize
from calibration.calibration_file import Calibration, Subject, graph_sha256, load_calibration
from calibration.collect import Image
from calibration.equalize import equalize
from calibration.fit_weights import fit_weights, with_weights_of
from calibration.placements import edges_of
from calibration.ranges import DEFAULT_METHOD, ranges_by_tensor
from dabnet.checkpoint import Checkpoint
from dabnet.console import ProgressBar
from dabnet.data.images import CalibrationSource, Unreadable, calibration_source
from dabnet.data.registry import open_dataset
from dabnet.errors import InputError
from dabnet.runtime.manifest import CalibrationInfo, PassInfo
from export.float_graph import FloatGraph, float_graph
from export.int8.budget import Budget, Notebook, Search, search
from export.int8.cost import CostModel, card_of
from export.int8.report import save_report
from export.int8.trial import Int8Trial, held_out
from export.spec import ExportSpec

# Images for equalisation and for fitting weights: sums over them change little after a few.
REFINING_IMAGES = 16


def calibrated_graph(
    checkpoint: Checkpoint, data_dir: Path | None, spec: ExportSpec, progress: ProgressBar
) -> FloatGraph:
    """Return the FP32 graph that is calibrated, with equalised channels if ``spec`` says so."""
    graph = float_graph(checkpoint, spec)
    if not spec.equalize:
        return graph
    if checkpoint.activation_ranges:
        raise InputError(
            "--equalize for a checkpoint of --qat, whose ranges are trained",
            "a checkpoint without them",
            "leave --equalize out",
        )
    images = calibration_source(checkpoint.dataset, data_dir, REFINING_IMAGES, spec.size)
    seen: list[str] = []
    with progress("equalising", len(images)) as step:
        model, lines = equalize(
            graph.model, _recorded(images, seen), progress=lambda done, name: step()
        )
    changed = sum(": left" not in line for line in lines)
    applied = PassInfo("equalize", changed, "float32 with other roundings")
    return replace(graph, model=model, passes=(*graph.passes, applied), image_sha256=tuple(seen))


def subject_of(graph: FloatGraph, checkpoint_sha256: str, spec: ExportSpec) -> Subject:
    """Say what a calibration of this graph is of."""
    return Subject(checkpoint_sha256, graph_sha256(graph.model), spec.optimize_for, spec.size)


@dataclass(frozen=True, slots=True)
class Ranges:
    """The ranges of an INT8 export, and what is known of them.

    Attributes:
        thresholds: tensor name → t >= 0.
        largest: tensor name → the largest |x| on the calibration images; {} where none was read.
        info: for the manifest.
        fitted: an int8 graph whose weights and biases are to be taken; None: the nearest ones.
    """

    thresholds: dict[str, float]
    largest: dict[str, float]
    info: CalibrationInfo
    fitted: onnx.ModelProto | None = None

    def having_seen(self, hashes: Iterable[str]) -> Ranges:
        """The same ranges, whose record names further images; each counts once."""
        images = tuple(dict.fromkeys((*self.info.image_sha256, *hashes)))
        return replace(self, info=replace(self.info, images=len(images), image_sha256=images))


def ranges_of(
    graph: FloatGraph,
    checkpoint: Checkpoint,
    checkpoint_sha256: str,
    data_dir: Path | None,
    spec: ExportSpec,
    progress: ProgressBar,
) -> Ranges:
    """Take the ranges of training, of ``spec.calibration_file``, or of training images.

    A checkpoint of quantisation-aware training brings those of its convolutions, unless ``spec``
    names a calibration method or file. With ``spec.fit_weights`` the weights are fitted as well.

    Raises:
        InputError: the file is of another network or graph, or there are no images.
        ArtifactError: the ranges of the checkpoint do not fit the graph.
    """
    ranges = _chosen_ranges(graph, checkpoint, checkpoint_sha256, data_dir, spec, progress)
    ranges = ranges.having_seen(graph.image_sha256)
    if not spec.fit_weights:
        return ranges
    model, _ = int8_graph(graph, ranges, replace(spec, float_layers=()))
    images = calibration_source(checkpoint.dataset, data_dir, REFINING_IMAGES, spec.size)
    seen: list[str] = []
    with progress("fitting weights", len(images)) as step:
        fitted, _ = fit_weights(
            graph.model, model, _recorded(images, seen), progress=lambda done, name: step()
        )
    ranges = ranges.having_seen(seen)
    info = replace(ranges.info, method=f"{ranges.info.method}, fitted weights")
    return replace(ranges, fitted=fitted, info=info)


def _chosen_ranges(
    graph: FloatGraph,
    checkpoint: Checkpoint,
    checkpoint_sha256: str,
    data_dir: Path | None,
    spec: ExportSpec,
    progress: ProgressBar,
) -> Ranges:
    trained: dict[str, float] = {}
    if spec.calibration_method is None and spec.calibration_file is None:
        trained = dict(checkpoint.activation_ranges)
        if trained:
            trained = ranges_by_tensor(graph.model, trained)
    rounded = {edge.tensor for edge in edges_of(graph.model, spec.placement)}
    method = spec.calibration_method or DEFAULT_METHOD
    if trained and rounded <= trained.keys() and spec.rest == "fp32":
        info = CalibrationInfo("trained", checkpoint.dataset, "train", 0, (), spec.placement)
        return Ranges(trained, {}, info)
    subject = subject_of(graph, checkpoint_sha256, spec)
    if spec.calibration_file is not None:
        calibration = load_calibration(spec.calibration_file)
        calibration.require(subject, "this export")
    else:
        count = spec.calibration_images
        images = calibration_source(checkpoint.dataset, data_dir, count, spec.size)
        calibration = collected(graph, subject, images, progress)
    info = CalibrationInfo(
        f"trained, else {method}" if trained else method,
        calibration.dataset,
        calibration.split,
        len(calibration.images),
        tuple(image.sha256 for image in calibration.images),
        spec.placement,
    )
    largest = {name: h.absolute_maximum for name, h in calibration.histograms.items()}
    return Ranges({**calibration.ranges(method), **trained}, largest, info)


def collected(
    graph: FloatGraph,
    subject: Subject,
    images: CalibrationSource,
    progress: ProgressBar,
    *,
    unreadable: Unreadable | None = None,
    before: Calibration | None = None,
    keep: Callable[[Calibration], None] | None = None,
) -> Calibration:
    """Calibrate on ``images`` with a bar; see ``calibration.calibrate.calibrate``."""
    dataset, split = images.origin
    with progress("calibrating", len(images)) as step:
        return calibrate(
            graph.model,
            images.hashed(unreadable),
            subject,
            dataset=dataset,
            split=split,
            progress=lambda done, name: step(),
            before=before,
            keep=keep,
        )


def int8_graph(
    graph: FloatGraph, ranges: Ranges, spec: ExportSpec
) -> tuple[onnx.ModelProto, CalibrationInfo]:
    """Insert Q/DQ as ``spec`` asks for; return the graph, and what the manifest says of it."""
    model, _ = quantize(
        graph.model,
        ranges.thresholds,
        placement=spec.placement,
        float_layers=spec.float_layers,
        half_scales=spec.rest == "fp16",
    )
    if ranges.fitted is not None:
        model = with_weights_of(model, ranges.fitted)
    return model, replace(ranges.info, float_layers=spec.float_layers)


def _recorded(images: CalibrationSource, seen: list[str]) -> Iterator[Image]:
    """Names and pixels of the images; their hashes go into ``seen``."""
    for item in images.hashed():
        seen.append(item.sha256)
        yield item.name, item.image


def layers_within_budget(
    graph: FloatGraph,
    ranges: Ranges,
    checkpoint: Checkpoint,
    data_dir: Path | None,
    spec: ExportSpec,
    output: Path,
    progress: ProgressBar,
) -> Search:
    """Search, and keep what was found beside ``output``.

    ``OUTPUT.budget.json`` keeps each measurement while it runs, so that the same export goes on
    from there; ``OUTPUT.budget.md`` and ``.png`` are the table and the plot.

    Args:
        graph, ranges: the FP32 graph and what would be its int8.
        checkpoint, data_dir: whose ``train`` the held-out images are taken from.
        spec: with a budget.
        output: of the export.
    """
    train = open_dataset(checkpoint.dataset, "train", data_dir, spec.size)
    calibrated = set(ranges.info.image_sha256)
    images = held_out(train, calibrated, spec.budget_images, spec.size)
    trial = Int8Trial(
        graph.model,
        ranges.thresholds,
        spec.placement,
        graph.logits,
        images,
        len(checkpoint.labels.classes),
        spec.rest == "fp16",
        ranges.fitted,
    )
    card = card_of(spec.card)
    cost = CostModel(graph.model, trial.layers, card, (spec.batch, *spec.size))
    key = _key(graph, ranges, spec, [item.name for item in images])
    notebook = Notebook(_beside(output, "json"), key)
    budget = Budget(spec.max_drop, spec.max_disagreement)
    with progress("measuring layers", 2 * len(trial.layers) + 1, "choices") as step:
        found = search(trial, cost.gain, cost.seconds, budget, notebook, step)
    save_report(found, budget, cost, _beside(output, "md"), _beside(output, "png"))
    return found


def _beside(output: Path, suffix: str) -> Path:
    return output.with_name(f"{output.name}.budget.{suffix}")


def _key(graph: FloatGraph, ranges: Ranges, spec: ExportSpec, images: list[str]) -> str:
    """What every measurement depends on."""
    sha256 = graph_sha256(graph.model)
    fitted = ranges.fitted and graph_sha256(ranges.fitted)
    content = [sha256, ranges.thresholds, spec.placement, spec.rest, images, fitted]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
