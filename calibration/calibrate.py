"""The two steps of post-training quantisation: images → statistics, statistics → int8 graph."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.calibration_file import Calibration, Subject
from calibration.collect import collect
from calibration.placements import DEFAULT_PLACEMENT, edges_of
from calibration.qdq import insert_qdq
from dabnet.data.images import SizedImage
from dabnet.errors import BuildError, InputError
from dabnet.graph.facts import layer_name, nodes_of

# ``trainval`` holds the images of ``val``, which are scored; ``train`` is enough for any model.
# Of a folder nothing is known but the pixels, by whose hashes dabnet-bench finds an overlap.
TRAINING_SPLITS = ("train", "folder")

# Images between two calls of ``keep``; statistics add up exactly, so any number gives the same.
_CHUNK = 16


def calibrate(
    model: ir.Model,
    images: Iterable[SizedImage],
    subject: Subject,
    *,
    dataset: str,
    split: str,
    tensors: Sequence[str] | None = None,
    progress: Callable[[], None] = lambda: None,
    before: Calibration | None = None,
    keep: Callable[[Calibration], None] | None = None,
) -> Calibration:
    """Run the FP32 graph on ``images`` and return the statistics of its tensors.

    Args:
        model: an FP32 graph with one input, uint8 (N, H, W, 3). It is not modified.
        images: read once, one at a time (a graph with a fixed batch N: N at a time; the last
            ones that fill no batch are left out). Some 50 suffice for DABNet.
        subject: which graph this is, for the record.
        dataset, split: where the images are from; the split must be ``train`` or ``folder``.
        tensors: names of float32 tensors; None takes all that any placement rounds.
        progress: called once per image.
        before: statistics of an interrupted run; its images are passed over.
        keep: is given the statistics so far now and then, so that they can be written.

    Raises:
        InputError: there are no images, one does not fit the graph, two have one name, or the
            split is not a training split.
        BuildError: a tensor is unknown, or an activation is NaN or infinite.
        MissingPackage: onnxruntime is not installed.
    """
    if split not in TRAINING_SPLITS:
        raise InputError(
            f"calibration on the split {split!r}",
            " or ".join(TRAINING_SPLITS),
            "calibration must not see the images that are scored",
        )
    if before is not None:
        before.require(subject, "this graph")
    tensors = rounded_tensors(model) if tensors is None else tensors
    earlier = set(before.images.values()) if before else set[str]()
    passed, batch, total = dict[str, str](), _fixed_batch(model), before
    fresh, count = _fresh(images, earlier, passed), max(_CHUNK // batch, 1) * batch

    def step() -> None:
        for _ in range(batch):
            progress()

    while chunk := list(itertools.islice(fresh, count)):
        chunk = chunk[: len(chunk) // batch * batch]
        if not chunk:
            break
        histograms = collect(model, _batches(chunk, batch), tensors, progress=step)
        seen = {image.name: image.sha256 for image in chunk}
        part = Calibration(subject, dataset, split, seen, histograms)
        total = total.merged(part) if total else part
        if keep is not None:
            keep(total)
    if missing := earlier - passed.keys():
        raise InputError(
            f"{len(missing)} images of the interrupted run are not among these",
            "the images that it was started with",
            "delete its .partial file to start again",
        )
    if total is None:
        raise InputError(
            "no calibration images" + (f" to fill a batch of {batch}" if batch > 1 else ""),
            f"at least {batch} of the {split} split",
        )
    # Names and order are those of this run, whatever ``before`` called them.
    counted = set(total.images.values())
    return replace(total, images={name: h for h, name in passed.items() if h in counted})


def quantize(
    model: ir.Model,
    ranges: Mapping[str, float],
    *,
    placement: str = DEFAULT_PLACEMENT,
    float_layers: Collection[str] = (),
    half_scales: bool = False,
) -> tuple[ir.Model, list[str]]:
    """Return the Q/DQ model of a graph and a line for each edge that changed.

    Args:
        model: the graph that was calibrated. It is not modified.
        ranges: tensor name → threshold, such as ``Calibration.ranges`` gives.
        placement: the edges to round; see ``calibration.placements``.
        float_layers: convolutions to leave in float, by ``dabnet.graph.facts.layer_name``.
        half_scales: scales that FP16 holds exactly; see ``insert_qdq``.

    Raises:
        InputError: the placement or a layer is unknown.
        BuildError: nothing is left to quantise, or a tensor that is rounded has no range.
    """
    edges = edges_of(model, placement)
    layers = {str(n.outputs[0].name): layer_name(n) for n in nodes_of(model.graph, "Conv")}
    for name in float_layers:
        if name not in layers.values():
            raise InputError(
                f"no convolution is called {name!r}", "one of " + ", ".join(layers.values())
            )
    edges = [edge for edge in edges if layers.get(edge.reader) not in float_layers]
    if not any(edge.reader in layers for edge in edges):
        raise BuildError("a graph without a convolution to quantise", "at least one")
    quantized, lines = insert_qdq(model, ranges, edges, half_scales=half_scales)
    onnx.checker.check_model(ir.to_proto(quantized), full_check=True)
    return quantized, lines


def rounded_tensors(model: ir.Model) -> list[str]:
    """Every tensor that a placement may round, and the results of Concats, for their guard."""
    return list(dict.fromkeys(edge.tensor for edge in edges_of(model, "all")))


def _fresh(
    images: Iterable[SizedImage], earlier: Collection[str], passed: dict[str, str]
) -> Iterator[SizedImage]:
    """Each picture once that ``earlier`` (hashes) lacks; ``passed`` gets hash → name of all."""
    names = set[str]()
    for image in images:
        if image.sha256 in passed:
            continue
        if image.name in names:
            raise InputError(
                f"two calibration images are called {image.name!r}", "one name per image"
            )
        names.add(image.name)
        passed[image.sha256] = image.name
        if image.sha256 not in earlier:
            yield image


def _fixed_batch(model: ir.Model) -> int:
    shape = model.graph.inputs[0].shape if model.graph.inputs else None
    return shape[0] if shape and isinstance(shape[0], int) else 1


def _batches(images: list[SizedImage], size: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for start in range(0, len(images), size):
        group = images[start : start + size]
        yield ", ".join(item.name for item in group), np.stack([item.image for item in group])
