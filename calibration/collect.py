"""Run the FP32 graph on images and keep a histogram of each tensor that is to be quantised."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from threading import Lock

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.histogram import NonFiniteError, StreamingHistogram
from dabnet.data.memory import read_ahead, usable_cores
from dabnet.errors import BuildError, InputError
from dabnet.graph.execution import Stepwise
from dabnet.graph.facts import inferred

Image = tuple[str, NDArray[np.uint8]]

# Images at a time: each holds its own activations, and numpy counts under Python's lock.
MOST_THREADS = 4


class ImageGraph:
    """An FP32 graph of one image input, run node by node; see ``dabnet.graph.execution.Stepwise``.

    Args:
        model: not modified.
        tensors: names of the float32 tensors to look at.

    Attributes:
        shape: (N, H, W, 3) of the image; a side that each call chooses is a string.

    Raises:
        MissingPackage: onnxruntime is not installed.
        InputError: the graph has another input than one uint8 (N, H, W, 3).
        BuildError: a tensor is unknown or not float32; or a node has a subgraph.
    """

    def __init__(self, model: ir.Model, tensors: Collection[str]) -> None:
        graph = inferred(model).graph
        self._input, self.shape = _image_input(graph)
        known = ir.convenience.create_value_mapping(graph, include_subgraphs=False)
        for name in tensors:
            value = known.get(name)
            if value is None or value.producer() is None:
                raise BuildError(
                    f"the graph computes no tensor {name!r}", "the name of a node's output"
                )
            if value.dtype != ir.DataType.FLOAT:
                raise BuildError(
                    f"tensor {name!r} is {_type_name(value)}", "float32", "calibrate the FP32 model"
                )
        self._graph = Stepwise(model, list(tensors))

    def run(self, image: NDArray[np.uint8]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield each tensor and its values as soon as they are computed.

        Args:
            image: uint8 (N, H, W, 3), RGB, 0…255, of the graph's size.
        """
        return self._graph.run({self._input: image})


def _image_input(graph: ir.Graph) -> tuple[str, tuple[int | str, ...]]:
    inputs = [value for value in graph.inputs if not value.is_initializer()]
    shapes = [
        tuple(side if isinstance(side, int) else side.value or "" for side in value.shape or ())
        for value in inputs
    ]
    is_image = [value.dtype == ir.DataType.UINT8 for value in inputs]
    if is_image != [True] or len(shapes[0]) != 4:
        found = ", ".join(
            f"{value.name}: {_type_name(value)} {list(shape)}"
            for value, shape in zip(inputs, shapes, strict=True)
        )
        raise InputError(
            f"a graph with the inputs {found or 'none'}",
            "one input, uint8 (N, H, W, 3)",
            "export the model with a uint8 image input",
        )
    return str(inputs[0].name), shapes[0]


def _type_name(value: ir.Value) -> str:
    return f"tensor({(value.dtype or ir.DataType.UNDEFINED).name.lower()})"


def collect(
    model: ir.Model,
    batches: Iterable[Image],
    tensors: Sequence[str],
    *,
    threads: int | None = None,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, StreamingHistogram]:
    """Return a histogram for each of ``tensors``, over all images.

    Memory holds the live activations of one image per thread, however many images and tensors there
    are. Each image is counted by itself (a graph with a fixed batch: that many) and the counts
    are added up, which is exact: neither batches, order nor threads change the result.

    Args:
        model: an FP32 graph with one input, uint8 (N, H, W, 3). It is not modified.
        batches: name and uint8 (N, H, W, 3) or (H, W, 3), RGB, 0…255; read once, one at a time.
        tensors: names of float32 tensors of the graph.
        threads: images that run at a time; by default one per core, at most 4.
        progress: called after each item of ``batches``.

    Raises:
        MissingPackage: onnxruntime is not installed.
        InputError: an image does not fit the graph's input.
        BuildError: a tensor is unknown or not float32, or an activation is NaN or infinite (the
            message names the tensor and the image).
    """
    names = list(dict.fromkeys(tensors))
    graph = ImageGraph(model, names)
    total = {name: StreamingHistogram() for name in names}
    adding = Lock()

    def count(item: Image) -> None:
        image, batch = item
        for part in parts(image, batch, graph.shape):
            for tensor, values in graph.run(part):
                statistics = StreamingHistogram()
                try:
                    statistics.update(values)
                except NonFiniteError as error:
                    raise BuildError(
                        f"{error.kind} in tensor {tensor!r} on image {image!r}",
                        "finite activations in FP32",
                        "check the checkpoint: its training may have diverged",
                    ) from error
                with adding:
                    total[tensor].merge(statistics)

    threads = threads or min(MOST_THREADS, usable_cores())
    # One more than there are threads: the next image is read while the others run.
    for _ in read_ahead(count, batches, threads, ahead=threads + 1):
        progress()
    return total


def largest_activations(
    model: ir.Model, images: Iterable[Image], progress: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Return the largest |x| of each float32 tensor that a node writes, over all images.

    Args:
        model, images, progress: as for ``collect``.

    Raises:
        MissingPackage, InputError, BuildError: as ``collect``. No image is an InputError.
    """
    values = (value for node in inferred(model).graph for value in node.outputs)
    names = [str(value.name) for value in values if value.dtype == ir.DataType.FLOAT]
    histograms = collect(model, images, names, progress=progress)
    if any(histogram.count == 0 for histogram in histograms.values()):
        raise InputError("no images to measure activations on", "at least one")
    return {name: histogram.absolute_maximum for name, histogram in histograms.items()}


def parts(
    name: str, batch: NDArray[np.uint8], shape: Sequence[int | str]
) -> Iterator[NDArray[np.uint8]]:
    """Yield what one run takes: one image, or as many as the graph's fixed batch wants."""
    images = batch[None] if batch.ndim == 3 else batch
    together = shape[0] if isinstance(shape[0], int) else 1
    fits = (
        images.dtype == np.uint8
        and images.ndim == 4
        and math.prod(images.shape) > 0
        and len(images) % together == 0
        and all(
            wanted == size
            for wanted, size in zip(shape[1:], images.shape[1:], strict=True)
            if isinstance(wanted, int)
        )
    )
    if not fits:
        raise InputError(
            f"image {name!r} is {batch.dtype} {tuple(batch.shape)}",
            f"uint8 {tuple(shape)}, the graph's input",
            "resize the calibration images or export the model at their size",
        )
    for start in range(0, len(images), together):
        yield images[start : start + together]
