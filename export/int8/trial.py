"""The accuracy of int8 in some layers, measured on labelled training images held out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.fit_weights import Fit, with_weights
from calibration.placements import Edge, edges_of
from calibration.qdq import insert_qdq
from dabnet.data.dataset import Dataset, evenly_spaced
from dabnet.data.images import SizedImage, SizedImages
from dabnet.errors import InputError
from dabnet.graph.execution import cpu_session, ending_at
from dabnet.graph.facts import layer_name, nodes_of
from dabnet.intervals import Interval, miou_difference
from dabnet.metrics import Counts, confusion
from dabnet.records import Amount, Percent

Mask = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One choice of layers against FP32 on the same images.

    Attributes:
        drop: mIoU of FP32 less this one's, in points of 100; its interval pairs the images.
        disagreement: share of pixels that differ from FP32's mask, in percent.
        noise: mean square of the difference of the logits over that of FP32's logits. It adds up
            over layers, nearly, and tells layers apart long before a mask changes.
    """

    drop: Interval
    disagreement: Percent
    noise: Amount

    def __post_init__(self) -> None:
        drop = self.drop
        if not (-100 <= drop.low <= drop.high <= 100 and -100 <= drop.value <= 100):
            raise ValueError(f"a drop of {drop.value} [{drop.low}, {drop.high}] points")


def held_out(
    dataset: Dataset, calibrated: Collection[str], count: int, size: tuple[int, int]
) -> list[SizedImage]:
    """``count`` labelled images of ``dataset`` that are not among the ``calibrated`` hashes.

    Args:
        dataset: the training split; its images are taken evenly spaced.
        calibrated: ``dabnet.data.image_files`` of each calibration image.
        count: at least 1.
        size: (height, width) that images and labels are resized to.

    Raises:
        InputError: calibration left too few of them.
    """
    chosen: list[SizedImage] = []
    seen: set[int] = set()
    images = SizedImages.first(dataset, size)
    wanted = count
    while len(chosen) < count and len(seen) < len(dataset):
        # Those that calibrated are passed over, and the rest is looked for in a finer grid.
        for index in evenly_spaced(len(dataset), 2 * wanted):
            if index not in seen and len(chosen) < count:
                seen.add(index)
                item = images[index]
                if item.sha256 not in calibrated:
                    chosen.append(item)
        wanted *= 2
    if len(chosen) < count:
        raise InputError(
            f"{len(chosen)} images of {dataset.name} {dataset.split} besides those that calibrated",
            f"{count} to measure the accuracy of int8 on",
            "calibrate on fewer, or lower --budget-images",
        )
    return chosen


class Int8Trial:
    """Measures choices of layers, with exact Q/DQ arithmetic.

    Args:
        model: the FP32 graph.
        ranges: thresholds of its tensors.
        placement: the rounded edges; those of convolutions can be taken out, others cannot.
        logits: name of its logits before the upsample.
        images: labelled, at the graph's size.
        classes: how many.
        half_scales: as in ``insert_qdq``.
        fitted: weights and biases of convolutions, in place of the nearest ones.
    """

    def __init__(
        self,
        model: ir.Model,
        ranges: Mapping[str, float],
        placement: str,
        logits: str,
        images: list[SizedImage],
        classes: int,
        half_scales: bool = False,
        fitted: Mapping[str, Fit] | None = None,
    ) -> None:
        self._model, self._ranges, self._half = model, ranges, half_scales
        self._fitted = fitted
        self._logits, self._images, self._classes = logits, images, classes
        convs = nodes_of(model.graph, "Conv")
        names = {str(conv.outputs[0].name): layer_name(conv) for conv in convs}
        self._edges = edges_of(model, placement)
        self._layer_of = {edge.reader: names.get(edge.reader, "") for edge in self._edges}
        self.layers = tuple(dict.fromkeys(name for name in self._layer_of.values() if name))
        self._reference = self._run(model)
        self._power = sum(float(np.square(logits).sum()) for _, logits in self._reference)
        self._scores = self._confusion([mask for mask, _ in self._reference])

    def without(self, float_layers: Collection[str]) -> Outcome:
        """The placement with these convolutions in float."""
        return self._outcome(
            [e for e in self._edges if self._layer_of[e.reader] not in float_layers]
        )

    def only(self, layer: str) -> Outcome:
        """FP32 with this one convolution in int8."""
        return self._outcome([e for e in self._edges if self._layer_of[e.reader] == layer])

    def _outcome(self, edges: list[Edge]) -> Outcome:
        model, _ = insert_qdq(self._model, self._ranges, edges, half_scales=self._half)
        if self._fitted:
            model = with_weights(model, self._fitted)
        found = self._run(model)
        error, differing = 0.0, []
        for (mask, logits), (expected, exact) in zip(found, self._reference, strict=True):
            error += float(np.square(logits - exact).sum())
            differing.append(float((mask != expected).mean()))
        drop = miou_difference(self._scores, self._confusion([mask for mask, _ in found]))
        points = Interval(100 * drop.value, 100 * drop.low, 100 * drop.high)
        return Outcome(points, 100 * float(np.mean(differing)), error / self._power)

    def _run(self, model: ir.Model) -> list[tuple[Mask, NDArray[np.float32]]]:
        given, mask = model.graph.inputs[0], str(model.graph.outputs[0].name)
        session = cpu_session(ending_at(model, [mask, self._logits]), "the int8 graph")
        batch = given.shape[0] if given.shape and isinstance(given.shape[0], int) else 1
        found = []
        for item in self._images:
            pixels = np.repeat(item.image[None], batch, axis=0)
            masks, logits = session.run([mask, self._logits], {given.name: pixels})
            found.append((masks[0], logits[0]))
        return found

    def _confusion(self, masks: list[Mask]) -> Counts:
        pairs = zip(masks, self._images, strict=True)
        return np.stack(
            [confusion(mask.astype(np.uint8), item.label, self._classes) for mask, item in pairs]
        )
