"""Does an artifact say the same as PyTorch? Counted on images before it is called done."""

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
from dabnet.models import STRIDE
from dabnet.models.image_to_mask import ImageToMask
from dabnet.runtime.manifest import Agreement
from export.graph.tensors import StepwiseSession, cpu_session, has_half_tensors
from export.spec import ExportSpec

Run = Callable[[NDArray[Any]], NDArray[Any]]
"""The graph's input → its output."""


def agreement_with_pytorch(
    model: onnx.ModelProto,
    module: ImageToMask,
    spec: ExportSpec,
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
        spec: what ``model`` was made for.
    """
    run = _runner(model)
    shares = []
    for number, image in enumerate(item.image for item in images):
        shares.append(_share(run, module, spec, image, spec.batch))
        if number == 0 and spec.dynamic_size:
            shares.append(_share(run, module, spec, _resized(image), spec.batch))
        if number == 0 and spec.dynamic_batch:
            shares.append(_share(run, module, spec, image, spec.batch + 1))
        progress()
    return Agreement(images.description, float(np.mean(shares)), float(min(shares)))


def require(agreement: Agreement, least: float, precision: str) -> None:
    """Raise where an artifact agrees with PyTorch on too few pixels to be written."""
    if agreement.mean >= least:
        return
    fix = (
        "more --calibration-images or another --calibration-method may help"
        if precision == "int8"
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


def _resized(image: Uint8Array) -> Uint8Array:
    """The image at another size: less high, a little wider."""
    height, width = image.shape[:2]
    return resize_image(image, (max(STRIDE, height // 2 // STRIDE * STRIDE), width + STRIDE))
