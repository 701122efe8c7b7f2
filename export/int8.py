"""The INT8 part of an export: whose statistics, which ranges, what is rounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from calibration.calibrate import calibrate, quantize
from calibration.calibration_file import Calibration, Subject, graph_sha256, load_calibration
from calibration.collect import Image
from calibration.equalize import equalize
from calibration.fit_weights import fit_weights
from calibration.fitted_weights import with_weights_of
from calibration.placements import edges_of
from calibration.ranges import DEFAULT_METHOD
from calibration.trained_ranges import ranges_by_tensor
from dabnet.checkpoint import Checkpoint
from dabnet.console import ProgressBar
from dabnet.errors import InputError
from dabnet.runtime.manifest import CalibrationInfo, PassInfo
from export.export_spec import ExportSpec
from export.float_graph import FloatGraph, float_graph
from export.images import CalibrationSource, Unreadable, calibration_source

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
