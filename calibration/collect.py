"""Run the FP32 graph on images and keep a histogram of each tensor that is to be quantised."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Lock

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.histogram import NonFiniteError, StreamingHistogram
from calibration.stepwise import StepwiseGraph
from dabnet.data.memory import read_ahead, usable_cores
from dabnet.errors import BuildError, InputError

# Called after each item of the iterable with the number of items done and the item's name.
Progress = Callable[[int, str], None]

Image = tuple[str, NDArray[np.uint8]]

# Images at a time: each holds its own activations, and numpy counts under Python's lock.
MOST_THREADS = 4


def collect(
    onnx_model: onnx.ModelProto,
    batches: Iterable[Image],
    tensors: Sequence[str],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, StreamingHistogram]:
    """Return a histogram for each of ``tensors``, over all images.

    Memory holds the live activations of one image a thread, however many images and tensors there
    are. Each image is counted by itself (a graph with a fixed batch: that many) and the counts
    are added up, which is exact: neither batches, order nor threads change the result.

    Args:
        onnx_model: an FP32 graph with one input, uint8 (N, H, W, 3). It is not modified.
        batches: name and uint8 (N, H, W, 3) or (H, W, 3), RGB, 0…255; read once, one at a time.
        tensors: names of float32 tensors of the graph.
        threads: images that run at a time; by default one a core, at most 4.
        progress: see ``Progress``.

    Raises:
        MissingPackage: onnxruntime is not installed.
        InputError: an image does not fit the graph's input.
        BuildError: a tensor is unknown or not float32, or an activation is NaN or infinite (the
            message names the tensor and the image).
    """
    names = list(dict.fromkeys(tensors))
    graph = StepwiseGraph(onnx_model, names)
    total = {name: StreamingHistogram() for name in names}
    adding = Lock()

    def count(item: Image) -> str:
        image, batch = item
        for part in parts(image, batch, graph.input_shape):
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
        return image

    threads = threads or min(MOST_THREADS, usable_cores())
    # One more than there are threads: the next image is read while the others run.
    done = read_ahead(count, batches, threads, ahead=threads + 1)
    for number, name in enumerate(done, start=1):
        if progress is not None:
            progress(number, name)
    return total


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
