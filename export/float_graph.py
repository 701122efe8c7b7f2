"""Checkpoint → the float graph of the contract, with the passes of its target."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import torch

from dabnet.checkpoint import Checkpoint
from dabnet.models.image_to_mask import ImageToMask
from dabnet.runtime.manifest import PassInfo
from export.export_spec import ExportSpec
from export.optimize import optimize
from export.trace import coarse_logits, contract_graph


@dataclass(frozen=True, slots=True)
class FloatGraph:
    """An FP32 graph before Q/DQ is inserted: the one that is calibrated.

    Attributes:
        model: without a manifest.
        passes: what was applied to it.
        logits: name of its logits before the upsample.
        image_sha256: ``dabnet.data.image_hash`` of the images that its weights were changed by.
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
