"""The graph passes of each target, and their application.

A target's list holds the passes that were measured to be faster there, or that its parser needs
(``studies/export_speed.py`` prints the gain of each). TensorRT fuses BatchNormalization, PRelu
and layout by itself: on TensorRT-RTX 1.7 ``sink_concat`` only adds layers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from dabnet.errors import InputError
from dabnet.graph.editing import tidy
from dabnet.runtime.manifest import PassInfo

TARGETS = ("portable", "ort-cpu", "ort-cuda", "tensorrt")

Pass = Callable[[ir.Model], tuple[ir.Model, list[str]]]

WINOGRAD_NOTE = "float32 with other sums; dabnet-export verify shows by how much logits differ"


@dataclass(frozen=True, slots=True)
class _Step:
    """One pass of a target's list.

    Attributes:
        name: of the pass and of its module.
        precisions: of the artifacts that get it.
        quantized: whether it comes after the insertion of Q/DQ in an int8 artifact.
        note: for the manifest; see ``PassInfo``.
    """

    name: str
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    quantized: bool = False
    note: str = ""

    def load(self) -> Pass:
        loaded: Pass = getattr(importlib.import_module(f"export.passes.{self.name}"), self.name)
        return loaded


_STEPS: dict[str, tuple[_Step, ...]] = {
    # Exact, and what lets one int8 scale serve a Concat; see calibration.qdq.
    "portable": (_Step("scale_image", precisions=("int8",)),),
    "ort-cpu": (
        _Step("sink_concat"),
        _Step("winograd", precisions=("fp32",), note=WINOGRAD_NOTE),
        _Step("argmax_by_cell"),
        # Its depthwise convolutions are no layers of the network: they get no Q/DQ.
        _Step("prelu_as_relu", quantized=True),
    ),
    "ort-cuda": (_Step("scale_image", precisions=("int8",)),),
    # Also in FP32: TensorRT fuses the factor, and its calibrators quantise Concats.
    "tensorrt": (_Step("scale_image", precisions=("fp32", "int8")),),
}

PASS_NAMES = tuple(dict.fromkeys(step.name for steps in _STEPS.values() for step in steps))


def check_passes(names: tuple[str, ...]) -> None:
    """Raise where a name is no pass."""
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
    """Apply the passes of ``target`` and say which changed how many places.

    Args:
        model: a graph with constant weights; it is not modified.
        target: one of ``TARGETS``.
        precision: of the artifact: ``fp32``, ``fp16`` or ``int8``.
        quantized: False for the passes before Q/DQ is inserted, True for those after it; an
            artifact of floats takes both, one after the other.
        without: names of passes to leave out.
    """
    if target not in TARGETS:
        raise InputError(f"target {target!r}", f"one of {', '.join(TARGETS)}")
    steps = [
        step
        for step in _STEPS[target]
        if step.quantized == quantized and precision in step.precisions and step.name not in without
    ]
    if not steps:
        return model, ()
    model = tidy(model.clone())
    applied = []
    for step in steps:
        model, changed = step.load()(model)
        model = tidy(model)
        if changed:
            applied.append(PassInfo(step.name, len(changed), step.note))
    return model, tuple(applied)
