"""The shipped network as the artifact that TensorRT-RTX gets, without calibration and check."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import onnx
import onnx_ir as ir

from calibration.calibrate import quantize
from calibration.placements import edges_of
from dabnet.checkpoint import Checkpoint, load_checkpoint
from dabnet.data.registry import label_set
from dabnet.models import build_model
from export.onnx_export import _manifest, float_graph, half
from export.onnx_file import with_manifest
from export.passes.targets import optimize
from export.spec import ExportSpec
from tests.support import ROOT


@cache
def checkpoint() -> Checkpoint:
    return load_checkpoint(ROOT / "weights" / "dabnet_toy_street.pth")


def of_cityscapes() -> Checkpoint:
    """The same network with 19 classes and random weights in its classifier."""
    labels = label_set("cityscapes")
    network = build_model("dabnet", len(labels.classes))
    kept = {k: v for k, v in checkpoint().state.items() if not k.startswith("classifier")}
    network.load_state_dict(kept, strict=False)
    return replace(checkpoint(), labels=labels, state=network.state_dict())


def write_graph(path: Path, spec: ExportSpec, of: Checkpoint | None = None) -> ir.Model:
    """Write the file of ``spec``; return its FP32 graph before Q/DQ.

    Each rounded tensor has the range ±1: a plan does not depend on the numbers.
    """
    source = of or checkpoint()
    graph = float_graph(source, spec)
    model, passes = graph.model, graph.passes
    if spec.precision == "int8":
        ranges = {edge.tensor: 1.0 for edge in edges_of(model, spec.int8_placement)}
        half_scales = spec.int8_rest == "fp16"
        model, _ = quantize(model, ranges, placement=spec.int8_placement, half_scales=half_scales)
    if "fp16" in (spec.precision, spec.int8_rest):
        model, _ = half(model, None)
    model, last = optimize(model, spec.optimize_for, spec.precision, last=True)
    manifest = replace(_manifest(source, "0" * 64, spec), passes=passes + last)
    onnx.save(with_manifest(model, manifest), path)
    return graph.model
