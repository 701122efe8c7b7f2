"""The graph passes of each target, and their application.

A target's list holds the passes that were measured to be faster there, or that its parser needs
(``studies/export_speed.py`` prints the gain of each). TensorRT fuses BatchNormalization, PRelu
and layout by itself: on TensorRT-RTX 1.7 ``sink_concat`` only adds layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from dabnet.errors import InputError
from dabnet.graph.editing import tidy
from dabnet.precision import EXPORTED, FP32, INT8
from dabnet.runtime.manifest import PassInfo
from export.passes.argmax_by_cell import argmax_by_cell
from export.passes.prelu_as_relu import prelu_as_relu
from export.passes.scale_image import scale_image
from export.passes.sink_concat import sink_concat
from export.passes.winograd import winograd

WINOGRAD_NOTE = "float32 with other sums; dabnet-export verify shows by how much logits differ"


@dataclass(frozen=True, slots=True)
class _Step:
    """One pass of a target's list.

    Attributes:
        change: the pass.
        precisions: of the artifacts that get it.
        quantized: whether it comes after the insertion of Q/DQ in an int8 artifact.
        note: for the manifest; see ``PassInfo``.
    """

    change: Callable[[ir.Model], tuple[ir.Model, list[str]]]
    precisions: tuple[str, ...] = EXPORTED
    quantized: bool = False
    note: str = ""

    @property
    def name(self) -> str:
        """That of the pass and of its module."""
        return self.change.__name__


_STEPS = {
    # Exact, and needed for one int8 scale to serve a Concat; see calibration.qdq.
    "portable": (_Step(scale_image, (INT8,)),),
    "ort-cpu": (
        _Step(sink_concat),
        _Step(winograd, (FP32,), note=WINOGRAD_NOTE),
        _Step(argmax_by_cell),
        # Its depthwise convolutions are no layers of the network: they get no Q/DQ.
        _Step(prelu_as_relu, quantized=True),
    ),
    "ort-cuda": (_Step(scale_image, (INT8,)),),
    # Also in FP32: TensorRT fuses the factor, and its calibrators quantise Concats.
    "tensorrt": (_Step(scale_image, (FP32, INT8)),),
}
TARGETS = tuple(_STEPS)
PASS_NAMES = tuple(dict.fromkeys(step.name for steps in _STEPS.values() for step in steps))


def check_passes(names: tuple[str, ...]) -> None:
    """Raise InputError if one of these is no name of a pass."""
    for name in names:
        if name not in PASS_NAMES:
            raise InputError(f"unknown graph pass {name!r}", f"one of {', '.join(PASS_NAMES)}")


def optimize(
    model: ir.Model,
    target: str,
    precision: str,
    *,
    quantized: bool = False,
    without: tuple[str, ...] = (),
) -> tuple[ir.Model, tuple[PassInfo, ...]]:
    """Apply the passes of ``target``; return the graph, and how many places each one changed.

    Args:
        model: a graph with constant weights; it is not modified.
        target: one of ``TARGETS``.
        precision: of the artifact: ``fp32``, ``fp16`` or ``int8``.
        quantized: False for the passes before Q/DQ is inserted, True for those after it; an
            artifact of floats takes both, one after the other.
        without: names of passes to leave out.
    """
    steps = [step for step in _STEPS[target] if step.quantized == quantized]
    steps = [step for step in steps if precision in step.precisions and step.name not in without]
    applied = []
    for number, step in enumerate(steps):
        model, changed = step.change(model if number else tidy(model.clone()))
        model = tidy(model)
        if changed:
            applied.append(PassInfo(step.name, len(changed), step.note))
    return model, tuple(applied)
