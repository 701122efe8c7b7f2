"""Run the FP32 graph on images and keep a histogram of each tensor that is to be quantised."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.histogram import NonFiniteError, StreamingHistogram
from calibration.stepwise import StepwiseGraph
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

    def count(image: str, batch: NDArray[np.uint8]) -> None:
        for part in parts(image, batch, graph.input_shape):
            for tensor, values in graph.run(part):
                statistics = StreamingHistogram()
                _update(statistics, values, tensor, image)
                with adding:
                    total[tensor].merge(statistics)

    threads = threads or min(MOST_THREADS, _cores())
    for done, name in enumerate(_each(count, batches, threads), start=1):
        if progress is not None:
            progress(done, name)
    return total


def _update(
    statistics: StreamingHistogram,
    values: NDArray[np.float32],
    tensor: str,
    image: str,
) -> None:
    try:
        statistics.update(values)
    except NonFiniteError as error:
        raise BuildError(
            f"{error.kind} in tensor {tensor!r} on image {image!r}",
            "finite activations in FP32",
            "check the checkpoint: its training may have diverged",
        ) from error


def _each(
    call: Callable[[str, NDArray[np.uint8]], None], batches: Iterable[Image], threads: int
) -> Iterator[str]:
    """Call it with each item, ``threads`` at a time; yield their names in the order of the items.

    An error is that of the first item that has one.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        pending: deque[tuple[str, Future[None]]] = deque()
        for name, batch in batches:
            pending.append((name, pool.submit(call, name, batch)))
            del batch
            # One more than there are threads: the next image is read while the others run.
            if len(pending) > threads:
                name, future = pending.popleft()
                future.result()
                yield name
        for name, future in pending:
            future.result()
            yield name
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
