"""Does an artifact say the same as PyTorch? Counted on images before it is called done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dabnet.data.dataset import Uint8Array
from dabnet.errors import BuildError
from dabnet.models.image_to_mask import ImageToMask
from dabnet.runtime.manifest import Agreement
from dabnet.runtime.onnxruntime_runner import OnnxRuntimeRunner
from dabnet.runtime.runner import Runner
from dabnet.runtime.torch_runner import TorchRunner
from export.images import ImageSource


def agreement_with_pytorch(
    onnx_file: Path,
    module: ImageToMask,
    images: ImageSource,
    progress: Callable[[], None] = lambda: None,
) -> Agreement:
    """Compare the masks of an ONNX file on onnxruntime's CPU with PyTorch FP32's."""
    candidate = OnnxRuntimeRunner(onnx_file)
    reference = TorchRunner(module, candidate.info.shape, torch.device("cpu"))
    shares = []
    for _, image in images:
        shares.append(share_of_equal_pixels(image, candidate, reference))
        progress()
    candidate.close()
    return Agreement(images.description, float(np.mean(shares)), float(min(shares)))


def share_of_equal_pixels(image: Uint8Array, candidate: Runner, reference: Runner) -> float:
    """Share of equal mask pixels on one image (H, W, 3), repeated to fill the batch."""
    batch = np.repeat(image[None], candidate.info.shape[0], axis=0)
    return float((candidate.infer(batch) == reference.infer(batch)).mean())


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
