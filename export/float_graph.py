"""Checkpoint → the float graph of the contract, with the passes of its target.

Module → the ONNX graph of the contract, before any pass.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch

from dabnet.checkpoint import Checkpoint
from dabnet.errors import BuildError
from dabnet.models.image_to_mask import ImageToMask
from dabnet.runtime.manifest import DYNAMIC, PassInfo, TensorInfo
from export.passes.targets import optimize
from export.spec import ExportSpec

OPSET = 17  # TensorRT 8.6 takes no more; ORT's CUDA provider lacks kernels of later ones

AXES = {3: ("batch", "height", "width"), 4: ("batch", "channels", "height", "width")}


def contract_graph(module: ImageToMask, spec: ExportSpec) -> onnx.ModelProto:
    """Trace the module: ``image`` uint8 (N, H, W, 3) → ``mask`` (N, H, W), opset 17.

    Sides that a call chooses are named ``batch``, ``height`` and ``width``. The exporter folds each
    BatchNorm that follows a convolution into its weights (evaluation mode); those before a
    convolution, behind a Concat or an Add, stay nodes of their own.
    """
    given = spec.input_tensor
    height, width = spec.size
    if given.dtype == "uint8":
        example = torch.zeros((spec.batch, height, width, 3), dtype=torch.uint8)
        axes: tuple[str, ...] = ("batch", "height", "width", "channels")
    else:
        example = torch.zeros((spec.batch, 3, height, width))
        axes = AXES[4]
    result = spec.output_tensor(classes=0)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        traced = Path(folder) / "traced.onnx"
        # The TorchScript exporter writes opset 17 itself; the newer one converts down to it,
        # takes longer and renames the weights.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (example,),
            traced,
            input_names=[given.name],
            output_names=[result.name],
            dynamic_axes={
                given.name: _free(given, axes),
                result.name: _free(result, AXES[len(result.shape)]),
            },
            opset_version=OPSET,
            dynamo=False,
        )
        return onnx.load(traced)


def coarse_logits(model: onnx.ModelProto) -> str:
    """Name of the logits before the upsample: float (N, K, H/8, W/8)."""
    resizes = [node for node in model.graph.node if node.op_type == "Resize"]
    if len(resizes) != 1:
        raise BuildError(f"a graph with {len(resizes)} upsamples", "one, behind the logits")
    return str(resizes[0].input[0])


def _free(tensor: TensorInfo, axes: tuple[str, ...]) -> dict[int, str]:
    """The sides that a call chooses, by name."""
    return {
        index: axes[index]
        for index, side in enumerate(tensor.shape)
        if side == DYNAMIC and axes[index] != "channels"
    }


@dataclass(frozen=True, slots=True)
class FloatGraph:
    """An FP32 graph before Q/DQ is inserted: the one that is calibrated.

    Attributes:
        model: without a manifest.
        passes: what was applied to it.
        logits: name of its logits before the upsample.
        image_sha256: ``dabnet.data.image_files`` of the images that its weights were changed by.
    """

    model: onnx.ModelProto
    passes: tuple[PassInfo, ...]
    logits: str
    image_sha256: tuple[str, ...] = ()


def float_graph(checkpoint: Checkpoint, spec: ExportSpec) -> FloatGraph:
    """Trace the checkpoint's network and apply the passes that come before Q/DQ."""
    module = ImageToMask(
        checkpoint.network(),
        checkpoint.preprocessing,
        getattr(torch, spec.mask_dtype),
        float_input=spec.input == "float",
        logits_output=spec.head == "logits",
    )
    traced = contract_graph(module.eval(), spec)
    model, passes = optimize(traced, spec.optimize_for, spec.precision, without=spec.without_passes)
    return FloatGraph(model, passes, coarse_logits(traced))
