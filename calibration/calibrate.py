"""The one entry of post-training quantisation: an FP32 graph and images in, an int8 graph out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.collect import Progress, collect
from calibration.qdq import conv_inputs, insert_qdq
from calibration.ranges import DEFAULT_METHOD, METHODS, symmetric_range
from dabnet.errors import BuildError, InputError
from dabnet.runtime.manifest import CalibrationInfo

# ``trainval`` holds the images of ``val``, which are scored; ``train`` is enough for any model.
TRAINING_SPLITS = ("train",)


def quantize(
    model: onnx.ModelProto,
    images: Iterable[tuple[str, NDArray[np.uint8]]],
    *,
    dataset: str,
    split: str,
    method: str = DEFAULT_METHOD,
    progress: Progress | None = None,
) -> tuple[onnx.ModelProto, CalibrationInfo]:
    """Calibrate on ``images`` and return the Q/DQ model and where its ranges came from.

    Args:
        model: an FP32 graph with one input, uint8 (N, H, W, 3). It is not modified.
        images: name and uint8 (H, W, 3) or (N, H, W, 3), RGB, 0…255; read once, one at a time.
            Some 50 images suffice for DABNet.
        dataset: the dataset's name, for the record.
        split: the split that the images are from; must be ``train``.
        method: ``minmax``, ``percentile`` or ``mse``; see ``calibration.ranges``.
        progress: called after each item of ``images`` with the number done and its name.

    Returns:
        The int8 model, opset and metadata unchanged, and a ``CalibrationInfo`` whose
        ``images_sha256`` covers the names, shapes and pixels of the images in their order.

    Raises:
        InputError: there are no images, one does not fit the graph, the split is not a training
            split, or the method is unknown.
        BuildError: the graph has no convolution, or an activation is NaN or infinite.
        MissingPackage: onnxruntime is not installed.
    """
    _check_options(split, method)
    tensors = conv_inputs(model)
    if not tensors:
        raise BuildError("a graph without a convolution", "a network to quantise")
    record = ImageRecord()
    histograms = collect(model, record.passing(images), tensors, progress=progress)
    if record.images == 0:
        raise InputError("no calibration images", f"at least one of the {split} split")
    ranges = {name: symmetric_range(histograms[name], method) for name in tensors}
    quantized, _ = insert_qdq(model, ranges)
    onnx.checker.check_model(quantized, full_check=True)
    return quantized, CalibrationInfo(
        method=method,
        dataset=dataset,
        split=split,
        images=record.images,
        images_sha256=record.sha256(),
    )


class ImageRecord:
    """Counts and hashes images while they pass by, so that none has to be kept."""

    def __init__(self) -> None:
        self.images = 0
        self._digest = hashlib.sha256()

    def passing(
        self, images: Iterable[tuple[str, NDArray[np.uint8]]]
    ) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Yield each item after recording it."""
        for name, batch in images:
            # The header ends each name and fixes each length: no two sequences share a hash.
            self._digest.update(f"{name!r} {batch.dtype} {batch.shape}\n".encode())
            self._digest.update(np.ascontiguousarray(batch).tobytes())
            self.images += 1 if batch.ndim == 3 else len(batch)
            yield name, batch

    def sha256(self) -> str:
        """64 hex digits."""
        return self._digest.hexdigest()


def _check_options(split: str, method: str) -> None:
    if split not in TRAINING_SPLITS:
        raise InputError(
            f"calibration on the split {split!r}",
            " or ".join(TRAINING_SPLITS),
            "calibration must not see the images that are scored",
        )
    if method not in METHODS:
        raise InputError(f"unknown calibration method {method!r}", " or ".join(METHODS))
