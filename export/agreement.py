"""The check of an artifact before it is written: the share of mask pixels that equal PyTorch's.

Where the images have labels, the mIoU of both tells a wrong preprocessing or dilation, which the
agreement cannot: it is the same in both.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from dabnet.checkpoint import Checkpoint
from dabnet.console import ProgressBar
from dabnet.data.dataset import Uint8Array
from dabnet.data.images import images_or_scenes, resize_image
from dabnet.errors import BuildError
from dabnet.graph.execution import Stepwise, cpu_session, has_half_tensors
from dabnet.metrics import Counts, confusion, mean_iou
from dabnet.models import network_named
from dabnet.models.image_to_mask import ImageToMask
from dabnet.precision import INT8
from dabnet.runtime.manifest import Agreement
from export.spec import ExportSpec

# The graph's input → its output.
Run = Callable[[NDArray[Any]], NDArray[Any]]


def required_agreement(
    model: ir.Model,
    checkpoint: Checkpoint,
    data_dir: Path | None,
    spec: ExportSpec,
    progress: ProgressBar,
) -> Agreement:
    """Compare the masks of a graph on onnxruntime's CPU provider with PyTorch FP32's.

    An FP16 graph runs node by node, each tensor rounded to FP16: in one session that provider
    would compute in FP32. Where a call chooses the size or the batch, one image is also run at
    another size and in a larger batch.

    Args:
        model: the graph as it will be written.
        checkpoint: the network that it must agree with.
        data_dir: folder of the data set, whose ``val`` is read; None draws toy street scenes.
        spec: the request that ``model`` was made for.
        progress: shows a bar.

    Raises:
        BuildError: they agree on fewer pixels than ``spec`` requires.
    """
    labels, count = checkpoint.labels, spec.check_images
    images = images_or_scenes(checkpoint.dataset, "val", data_dir, count, spec.size, labels)
    reference = ImageToMask(checkpoint.network(), checkpoint.preprocessing).eval()
    run, stride = exact_runner(model), network_named(checkpoint.model).stride
    classes, shares = len(labels.classes), []
    scored = images.origin[0] == checkpoint.dataset and images.labelled
    matrices: Counts = np.zeros((2, classes, classes), np.int64)  # of PyTorch and of the artifact
    with progress("comparing with PyTorch", len(images)) as step:
        for number, item in enumerate(images):
            image, trials = item.image, [(item.image, spec.batch)]
            if number == 0 and spec.dynamic_size:
                trials.append((_resized(image, stride), spec.batch))
            if number == 0 and spec.dynamic_batch:
                trials.append((image, spec.batch + 1))
            masks = [_masks(run, reference, spec, *trial) for trial in trials]
            shares += [float((found == expected).mean()) for expected, found in masks]
            matrices += [confusion(mask[0], item.label, classes) for mask in masks[0]]
            step()
    mious = map(float, mean_iou(matrices)) if scored and matrices.any() else ()
    agreement = Agreement(images.description, float(np.mean(shares)), min(shares), *mious)
    if agreement.mean < spec.required_agreement:
        fix = "this is a fault of the export: please report it"
        if spec.precision == INT8:
            fix = "more --calibration-images or another --calibration-method may help"
        elif data_dir is None and checkpoint.dataset != "toy-street":
            fix = f"check it on images of {checkpoint.dataset}: add --data-dir"
        raise BuildError(
            f"the {spec.precision} artifact agrees with PyTorch on {100 * agreement.mean:.3f} % of"
            f" pixels ({agreement.images}); nothing was written",
            f"at least {100 * spec.required_agreement:g} %",
            f"{fix}, or lower --min-agreement",
        )
    return agreement


def exact_runner(model: ir.Model) -> Run:
    """Run a graph of ours as it says: FP16 node by node, any other in one session."""
    given, result = (str(side[0].name) for side in (model.graph.inputs, model.graph.outputs))
    if has_half_tensors(model):
        stepwise = Stepwise(model)
        return lambda batch: dict(stepwise.run({given: batch}))[result]
    session = cpu_session(model, "the exported graph")
    return lambda batch: np.asarray(session.run(None, {given: batch})[0])


@torch.inference_mode()
def _masks(
    run: Run, module: ImageToMask, spec: ExportSpec, image: Uint8Array, batch: int
) -> tuple[Uint8Array, Uint8Array]:
    """Masks (N, H, W) of one image (H, W, 3), repeated to fill the batch: PyTorch's, ``run``'s."""
    images = torch.from_numpy(np.repeat(image[None], batch, axis=0))
    expected = module(images).numpy()
    given = images if spec.input == "uint8" else module.preprocess(images)
    found = run(given.contiguous().numpy())
    if spec.head == "logits":
        found = found.argmax(axis=1)
    return expected.astype(np.uint8, copy=False), found.astype(np.uint8, copy=False)


def _resized(image: Uint8Array, stride: int) -> Uint8Array:
    """The image at another size: half as high, a little wider."""
    height, width = image.shape[:2]
    return resize_image(image, (max(stride, height // 2 // stride * stride), width + stride))
