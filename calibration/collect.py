"""Run the FP32 graph on images and keep a histogram of each tensor that is to be quantised."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.histogram import NonFiniteError, StreamingHistogram
from dabnet.errors import BuildError, InputError, MissingPackage

# Called after each item of the iterable with the number of items done and the item's name.
Progress = Callable[[int, str], None]


def collect(
    onnx_model: onnx.ModelProto,
    batches: Iterable[tuple[str, NDArray[np.uint8]]],
    tensors: Sequence[str],
    *,
    progress: Progress | None = None,
) -> dict[str, StreamingHistogram]:
    """Return a histogram for each of ``tensors``, over all images.

    Memory holds the activations of one image, however many images there are. The graph runs
    unoptimised, so that each tensor is what the FP32 graph says, and one image at a time (a graph
    with a fixed batch: that many), so that the result does not depend on the batch split.

    Args:
        onnx_model: an FP32 graph with one input, uint8 (N, H, W, 3). It is not modified.
        batches: name and uint8 (N, H, W, 3) or (H, W, 3), RGB, 0…255; read once, one at a time.
        tensors: names of float32 tensors of the graph.
        progress: see ``Progress``.

    Raises:
        MissingPackage: onnxruntime is not installed.
        InputError: an image does not fit the graph's input.
        BuildError: a tensor is unknown or not float32, or an activation is NaN or infinite (the
            message names the tensor and the image).
    """
    names = list(dict.fromkeys(tensors))
    session = _session(_with_outputs(onnx_model, names))
    graph_input = _checked_input(session)
    _check_outputs(session, names)
    histograms = {name: StreamingHistogram() for name in names}
    for done, (image_name, batch) in enumerate(batches, start=1):
        for part in _parts(image_name, batch, graph_input.shape):
            for name, values in zip(
                names, session.run(names, {graph_input.name: part}), strict=True
            ):
                _update(histograms[name], values, name, image_name)
        if progress is not None:
            progress(done, image_name)
    return histograms


def _update(
    histogram: StreamingHistogram, values: NDArray[np.float32], tensor: str, image: str
) -> None:
    try:
        histogram.update(values)
    except NonFiniteError as error:
        raise BuildError(
            f"{error.kind} in tensor {tensor!r} on image {image!r}",
            "finite activations in FP32",
            "check the checkpoint: its training may have diverged",
        ) from error


def _with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """A copy of the model in which ``names`` are outputs as well."""
    known = {name for node in model.graph.node for name in node.output if name}
    for name in names:
        if name not in known:
            raise BuildError(
                f"the graph computes no tensor {name!r}", "the name of a node's output"
            )
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {output.name for output in copy.graph.output}
    # Without a type: onnxruntime infers it, and _check_outputs sees what it really is.
    copy.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in present
    )
    return copy


def _session(model: onnx.ModelProto) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackage("onnxruntime", "cpu") from error
    options = onnxruntime.SessionOptions()
    # A fused or re-laid-out graph may round differently from the one that is being quantised.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Every output is alive at the end of a run anyway; the arena would only round their sizes up.
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _checked_input(session: Any) -> Any:
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(uint8)" or len(inputs[0].shape) != 4:
        found = ", ".join(f"{item.name}: {item.type} {item.shape}" for item in inputs)
        raise InputError(
            f"a graph with the inputs {found or 'none'}",
            "one input, uint8 (N, H, W, 3)",
            "export the model with a uint8 image input",
        )
    return inputs[0]


def _check_outputs(session: Any, names: list[str]) -> None:
    types = {output.name: output.type for output in session.get_outputs()}
    for name in names:
        if types[name] != "tensor(float)":
            raise BuildError(
                f"tensor {name!r} is {types[name]}",
                "tensor(float)",
                "calibrate the FP32 model",
            )


def _parts(
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
