"""The check of an artifact: the share of mask pixels that equal PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from dabnet.data.dataset import Uint8Array
from dabnet.data.images import SizedImages
from dabnet.data.transforms import resize_image
from dabnet.errors import BuildError
from dabnet.models.image_to_mask import ImageToMask
from dabnet.precision import INT8
from dabnet.runtime.manifest import Agreement
from export.graph.tensors import StepwiseSession, cpu_session, has_half_tensors
from export.spec import ExportSpec

# The graph's input → its output.
Run = Callable[[NDArray[Any]], NDArray[Any]]


def agreement_with_pytorch(
    model: onnx.ModelProto,
    module: ImageToMask,
    spec: ExportSpec,
    stride: int,
    images: SizedImages,
    progress: Callable[[], None] = lambda: None,
) -> Agreement:
    """Compare the masks of a graph on onnxruntime's CPU provider with PyTorch FP32's.

    An FP16 graph runs node by node, each tensor rounded to FP16: in one session that provider
    would compute in FP32. Where a call chooses the size or the batch, one image is also run at
    another size and twice in a batch.

    Args:
        model: the graph as it will be written.
        module: the reference: uint8 images → mask.
        spec: the request that ``model`` was made for.
        stride: of the network.
        images: at the size of ``spec``.
        progress: called after each of them.
    """
    run = _runner(model)
    shares = []
    for number, image in enumerate(item.image for item in images):
        shares.append(_share(run, module, spec, image, spec.batch))
        if number == 0 and spec.dynamic_size:
            shares.append(_share(run, module, spec, _resized(image, stride), spec.batch))
        if number == 0 and spec.dynamic_batch:
            shares.append(_share(run, module, spec, image, spec.batch + 1))
        progress()
    return Agreement(images.description, float(np.mean(shares)), float(min(shares)))


def require(agreement: Agreement, least: float, precision: str) -> None:
    """Raise BuildError if an artifact agrees with PyTorch on too few pixels to be written."""
    if agreement.mean >= least:
        return
    fix = (
        "more --calibration-images or another --calibration-method may help"
        if precision == INT8
        else "this is a fault of the export: please report it"
    )
    raise BuildError(
        f"the {precision} artifact agrees with PyTorch on {100 * agreement.mean:.3f} % of pixels"
        f" ({agreement.images}); nothing was written",
        f"at least {100 * least:g} %",
        f"{fix}, or lower --min-agreement",
    )


def _runner(model: onnx.ModelProto) -> Run:
    name = model.graph.input[0].name
    if has_half_tensors(model):
        stepwise = StepwiseSession(model)
        return lambda batch: stepwise.run(None, {name: batch})[0]
    session = cpu_session(model, "the exported graph", optimised=True)
    return lambda batch: np.asarray(session.run(None, {name: batch})[0])


@torch.inference_mode()
def _share(run: Run, module: ImageToMask, spec: ExportSpec, image: Uint8Array, batch: int) -> float:
    """Share of equal mask pixels on one image (H, W, 3), repeated to fill the batch."""
    images = torch.from_numpy(np.repeat(image[None], batch, axis=0))
    expected = module(images).numpy()
    given = images if spec.input == "uint8" else module.preprocess(images)
    found = run(given.contiguous().numpy())
    if spec.head == "logits":
        found = found.argmax(axis=1)
    return float((found == expected).mean())


def _resized(image: Uint8Array, stride: int) -> Uint8Array:
    """The image at another size: half as high, a little wider."""
    height, width = image.shape[:2]
    return resize_image(image, (max(stride, height // 2 // stride * stride), width + stride))
