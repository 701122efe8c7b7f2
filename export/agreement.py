"""The check of an artifact before it is written: the share of mask pixels that equal PyTorch's.

A confidence beside the mask is compared at all pixels, as it does not jump where the class does: in
FP32 it may differ by at most ``dabnet.head.TOLERANCE`` at any pixel. In FP16 and INT8 it follows
the roundings of the logits, and the difference is recorded.

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
from dabnet.data.registry import DRAWN
from dabnet.errors import BuildError
from dabnet.graph.execution import Stepwise, cpu_session, has_half_tensors
from dabnet.head import LARGEST, LOGITS, MASK, MASK_AND_CONFIDENCE, TOLERANCE
from dabnet.metrics import Counts, confusion, difference_counts, mean_iou
from dabnet.models import network_named
from dabnet.models.image_to_mask import ImageToMask
from dabnet.precision import FP32, INT8
from dabnet.runtime.manifest import Agreement, ConfidenceDifference
from export.spec import ExportSpec

# The graph's input → its outputs.
Run = Callable[[NDArray[Any]], tuple[NDArray[Any], ...]]


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
        BuildError: they agree on fewer pixels than ``spec`` requires, or the confidence of an FP32
            graph differs.
    """
    labels, count = checkpoint.labels, spec.check_images
    images = images_or_scenes(checkpoint.dataset, "val", data_dir, count, spec.size, labels)
    head = MASK if spec.head == LOGITS else spec.head
    reference = ImageToMask(checkpoint.network(), checkpoint.preprocessing, head=head).eval()
    run, stride = exact_runner(model), network_named(checkpoint.model).stride
    classes, shares = len(labels.classes), []
    scored = images.origin[0] == checkpoint.dataset and images.labelled
    matrices: Counts = np.zeros((2, classes, classes), np.int64)  # of PyTorch and of the artifact
    differences: Counts = np.zeros(LARGEST + 1, np.int64)  # pixels by that of their confidences
    with progress("comparing with PyTorch", len(images)) as step:
        for number, item in enumerate(images):
            image, trials = item.image, [(item.image, spec.batch)]
            if number == 0 and spec.dynamic_size:
                trials.append((_resized(image, stride), spec.batch))
            if number == 0 and spec.dynamic_batch:
                trials.append((image, spec.batch + 1))
            masks = []
            for trial in trials:
                (expected, *confidence), (found, *other) = _results(run, reference, spec, *trial)
                masks.append((expected, found))
                for pair in zip(confidence, other, strict=True):
                    differences += difference_counts(*pair)
            shares += [float((found == expected).mean()) for expected, found in masks]
            matrices += [confusion(mask[0], item.label, classes) for mask in masks[0]]
            step()
    mious = [float(iou) for iou in mean_iou(matrices)] if scored and matrices.any() else [None] * 2
    means = float(np.mean(shares)), min(shares)
    with_confidence = head == MASK_AND_CONFIDENCE
    apart = ConfidenceDifference.of(differences.tolist()) if with_confidence else None
    described = images.description
    if scored and (seen := images.seen_by(checkpoint.trained_on)):
        described += f", seen in training ({seen})"
    agreement = Agreement(described, *means, mious[0], mious[1], apart)
    if agreement.mean < spec.required_agreement:
        fix = "this is a fault of the export: please report it"
        if spec.precision == INT8:
            fix = "more --calibration-images or another --calibration-method may help"
        elif data_dir is None and checkpoint.dataset != DRAWN:
            fix = f"check it on images of {checkpoint.dataset}: add --data-dir"
        raise BuildError(
            f"the {spec.precision} artifact agrees with PyTorch on {100 * agreement.mean:.3f} % of"
            f" pixels ({agreement.images}); nothing was written",
            f"at least {100 * spec.required_agreement:g} %",
            f"{fix}, or lower --min-agreement",
        )
    if apart and spec.precision == FP32 and apart.largest > TOLERANCE:
        raise BuildError(
            f"the confidence differs from PyTorch's by up to {apart.largest} of {LARGEST}"
            f" ({agreement.images}); nothing was written",
            f"at most {TOLERANCE} in fp32",
            "this is a fault of the export: please report it, or use --head mask",
        )
    return agreement


def exact_runner(model: ir.Model) -> Run:
    """Run a graph of ours as it says: FP16 node by node, any other in one session."""
    given = str(model.graph.inputs[0].name)
    if has_half_tensors(model):
        stepwise, results = Stepwise(model), [str(value.name) for value in model.graph.outputs]

        def run(batch: NDArray[Any]) -> tuple[NDArray[Any], ...]:
            found = dict(stepwise.run({given: batch}))
            return tuple(found[name] for name in results)

        return run
    session = cpu_session(model, "the exported graph")
    return lambda batch: tuple(session.run(None, {given: batch}))


@torch.inference_mode()
def _results(
    run: Run, module: ImageToMask, spec: ExportSpec, image: Uint8Array, batch: int
) -> tuple[list[Uint8Array], list[Uint8Array]]:
    """Of an image (H, W, 3), repeated to fill the batch: what PyTorch gives, and what ``run`` does.

    Each is the masks (N, H, W), and the confidences if the head has them.
    """
    images = torch.from_numpy(np.repeat(image[None], batch, axis=0))
    expected = module(images)
    given = images if spec.input == "uint8" else module.preprocess(images)
    found = run(given.contiguous().numpy())
    if spec.head == LOGITS:
        found = (found[0].argmax(axis=1),)
    wanted = expected if isinstance(expected, tuple) else (expected,)
    return (
        [values.numpy().astype(np.uint8, copy=False) for values in wanted],
        [values.astype(np.uint8, copy=False) for values in found],
    )


def _resized(image: Uint8Array, stride: int) -> Uint8Array:
    """The image at another size: half as high, a little wider."""
    height, width = image.shape[:2]
    return resize_image(image, (max(stride, height // 2 // stride * stride), width + stride))
