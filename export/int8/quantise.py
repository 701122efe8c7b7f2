"""The INT8 part of an export: statistics → ranges → fitted weights? → accuracy budget? → Q/DQ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from calibration.calibrate import calibrate, quantize
from calibration.calibration_file import Calibration, Subject, graph_sha256, load_calibration
from calibration.collect import Image
from calibration.fit_weights import Fit, fit_weights, with_weights
from calibration.placements import edges_of
from calibration.ranges import DEFAULT_METHOD, ranges_by_tensor
from dabnet.checkpoint import Checkpoint
from dabnet.console import ProgressBar
from dabnet.data.images import SizedImages, calibration_source
from dabnet.data.registry import open_dataset
from dabnet.runtime.manifest import CalibrationInfo
from export.cards import CARDS
from export.int8.budget import Budget, Notebook, search
from export.int8.cost import CostModel
from export.int8.report import report_files, save_report
from export.int8.trial import Int8Trial, held_out
from export.spec import ExportSpec

# Images to fit weights on: the sums over them change little after a few.
FITTING_IMAGES = 16


@dataclass(frozen=True, slots=True)
class Ranges:
    """The ranges of an INT8 export, and their origin.

    Attributes:
        thresholds: tensor name → t >= 0.
        info: for the manifest.
        largest: tensor name → the largest |x| on the calibration images; {} if none was read.
        fitted: weights and biases of convolutions, in place of the nearest ones.
    """

    thresholds: Mapping[str, float]
    info: CalibrationInfo
    largest: Mapping[str, float] = field(default_factory=dict)
    fitted: Mapping[str, Fit] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Int8Export:
    """The way of one FP32 graph to INT8.

    Attributes:
        model: the FP32 graph. It is not modified.
        logits: name of its logits before the upsample.
        checkpoint, checkpoint_sha256: the network that was traced, and the SHA-256 of its file.
        data_dir: folder of the data set; images are taken from its ``train``.
        spec: the artifact that is asked for.
        progress: shows a bar for each step.
    """

    model: ir.Model
    logits: str
    checkpoint: Checkpoint
    checkpoint_sha256: str
    data_dir: Path | None
    spec: ExportSpec
    progress: ProgressBar

    def run(self, reports: Path) -> tuple[ir.Model, Ranges]:
        """Choose ranges and layers; return the graph with Q/DQ, and the ranges that it has.

        Args:
            reports: the file beside which the tables of an accuracy budget go.

        Raises:
            InputError: the calibration file is of another graph, there are no images, or no
                choice of layers keeps to the budget.
            ArtifactError: the ranges of the checkpoint do not fit the graph.
        """
        ranges = self.ranges()
        float_layers = self.spec.float_layers
        if self.spec.has_budget:
            float_layers = self._layers_within_budget(ranges, reports)
        info = replace(ranges.info, float_layers=float_layers)
        return self._quantised(ranges, float_layers), replace(ranges, info=info)

    def ranges(self) -> Ranges:
        """Take the ranges of training, of ``spec.calibration_file``, or of training images.

        A checkpoint of quantisation-aware training brings those of its convolutions, unless
        ``spec`` names a calibration method or file. With ``spec.fit_weights`` the weights are
        fitted as well.
        """
        spec, trained = self.spec, dict[str, float]()
        chosen = spec.calibration_method or spec.calibration_file
        if self.checkpoint.activation_ranges and not chosen:
            trained = ranges_by_tensor(self.model, self.checkpoint.activation_ranges)
        rounded = {edge.tensor for edge in edges_of(self.model, spec.int8_placement)}
        if trained and rounded <= trained.keys() and spec.int8_rest == "fp32":
            origin = (self.checkpoint.dataset, "train", 0, ())
            ranges = Ranges(trained, CalibrationInfo("trained", *origin, spec.int8_placement))
        else:
            method = spec.calibration_method or DEFAULT_METHOD
            calibration = self._calibration()
            info = calibration.info(f"trained, else {method}" if trained else method)
            ranges = Ranges(
                {**calibration.ranges(method), **trained},
                replace(info, placement=spec.int8_placement),
                {name: h.absolute_maximum for name, h in calibration.histograms.items()},
            )
        return self._fitted(ranges) if spec.fit_weights else ranges

    def collected(
        self,
        images: SizedImages,
        before: Calibration | None = None,
        keep: Callable[[Calibration], None] | None = None,
    ) -> Calibration:
        """Calibrate on ``images``; see ``calibration.calibrate.calibrate``."""
        dataset, split = images.origin
        with self.progress("calibrating", len(images)) as step:
            return calibrate(
                self.model,
                images,
                self.subject,
                dataset=dataset,
                split=split,
                progress=step,
                before=before,
                keep=keep,
            )

    @property
    def subject(self) -> Subject:
        """The graph, as its calibration names it."""
        sha256 = graph_sha256(self.model)
        return Subject(self.checkpoint_sha256, sha256, self.spec.optimize_for, self.spec.size)

    def images(self, count: int) -> SizedImages:
        """Training images of the data set, evenly spaced."""
        dataset, labels = self.checkpoint.dataset, self.checkpoint.labels
        return calibration_source(dataset, self.data_dir, count, self.spec.size, labels)

    def _calibration(self) -> Calibration:
        if self.spec.calibration_file is None:
            return self.collected(self.images(self.spec.calibration_images))
        calibration = load_calibration(self.spec.calibration_file)
        calibration.require(self.subject, "this export")
        return calibration

    def _fitted(self, ranges: Ranges) -> Ranges:
        """The same ranges with fitted weights; the record names the images of both, each once."""
        images, seen = self.images(FITTING_IMAGES), list[str]()

        def pixels() -> Iterator[Image]:
            for item in images:
                seen.append(item.sha256)
                yield item.name, item.image

        with self.progress("fitting weights", len(images)) as step:
            nearest = self._quantised(ranges, ())
            fitted, _ = fit_weights(self.model, nearest, pixels(), progress=step)
        hashes = tuple(dict.fromkeys((*ranges.info.image_sha256, *seen)))
        info = replace(
            ranges.info,
            method=f"{ranges.info.method}, fitted weights",
            images=len(hashes),
            image_sha256=hashes,
        )
        return replace(ranges, fitted=fitted, info=info)

    def _quantised(self, ranges: Ranges, float_layers: tuple[str, ...]) -> ir.Model:
        model, _ = quantize(
            self.model,
            ranges.thresholds,
            placement=self.spec.int8_placement,
            float_layers=float_layers,
            half_scales=self.spec.int8_rest == "fp16",
        )
        return with_weights(model, ranges.fitted) if ranges.fitted else model

    def _layers_within_budget(self, ranges: Ranges, reports: Path) -> tuple[str, ...]:
        """Search for the convolutions to leave in float; write what was found beside ``reports``.

        ``REPORTS.budget.json`` keeps each measurement while the search runs, so that the same
        export goes on from there; ``REPORTS.budget.md`` and ``.png`` are the table and the plot.
        """
        spec = self.spec
        train = open_dataset(self.checkpoint.dataset, "train", self.data_dir, spec.size)
        calibrated = set(ranges.info.image_sha256)
        images = held_out(train, calibrated, spec.budget_images, spec.size)
        trial = Int8Trial(
            self.model,
            ranges.thresholds,
            spec.int8_placement,
            self.logits,
            images,
            len(self.checkpoint.labels.classes),
            spec.int8_rest == "fp16",
            ranges.fitted,
        )
        example, rest = (spec.batch, *spec.size), spec.int8_rest
        cost = CostModel(self.model, trial.layers, CARDS[spec.card], example, rest)
        names = [item.name for item in images]
        fitted = graph_sha256(self._quantised(ranges, ())) if ranges.fitted else None
        placed = (
            graph_sha256(self.model),
            dict(ranges.thresholds),
            spec.int8_placement,
            spec.int8_rest,
        )
        key = hashlib.sha256(json.dumps([*placed, names, fitted], sort_keys=True).encode())
        notes, table, plot = report_files(reports)
        notebook = Notebook(notes, key.hexdigest())
        budget = Budget(spec.max_drop, spec.max_disagreement)
        with self.progress("measuring layers", 2 * len(trial.layers) + 1, "choices") as step:
            found = search(trial, cost.gain, cost.seconds, budget, notebook, step)
        save_report(found, budget, cost, table, plot)
        return found.chosen.float_layers
