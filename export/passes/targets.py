"""The graph passes of each target, and their application.

A target's list holds the passes that were measured to be faster there, or that its parser needs:
``studies/export_speed.py`` prints the gain of each on a CPU, ``studies/engine_plans.py`` what each
saves in the plans of TensorRT-RTX, where no time was measured. TensorRT 8.6, 10 and 11 fuse by
other rules, and no plan of theirs has been read yet: they get the passes that replace what no plan
of TensorRT-RTX fused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from dabnet.errors import InputError
from dabnet.graph.editing import tidy
from dabnet.graph.facts import image_axes
from dabnet.precision import EXPORTED, FP16, FP32, INT8
from dabnet.runtime.manifest import PassInfo
from export.passes.ort.argmax_by_cell import argmax_by_cell
from export.passes.ort.prelu_as_relu import prelu_as_relu
from export.passes.ort.winograd import winograd
from export.passes.prelu_as_max import prelu_as_max
from export.passes.scale_image import scale_image
from export.passes.sink_concat import sink_concat, sink_first_concat
from export.passes.trt.argmax_by_class import argmax_by_class
from export.passes.trt.bytes_from_float import bytes_from_float
from export.passes.trt.depthwise_as_taps import depthwise_as_taps
from export.passes.trt.one_weight_scale import one_weight_scale
from export.passes.trt.pools_as_slices import pools_as_slices
from export.passes.trt.residual_as_difference import residual_as_difference

NO_SIZE = "it needs a fixed height and width"
WINOGRAD_NOTE = "float32 with other sums; dabnet-export verify shows by how much logits differ"


@dataclass(frozen=True, slots=True)
class _Step:
    """One pass of a target's list.

    Attributes:
        change: the pass.
        precisions: of the artifacts that get it.
        last: whether it comes behind Q/DQ and FP16.
        fixed_size: whether it needs a known height and width.
        note: for the manifest; see ``PassInfo``.
    """

    change: Callable[[ir.Model], tuple[ir.Model, list[str]]]
    precisions: tuple[str, ...] = EXPORTED
    last: bool = False
    fixed_size: bool = False
    note: str = ""

    @property
    def name(self) -> str:
        """That of the pass and of its module."""
        return self.change.__name__


# Exact, and one int8 scale can then serve a Concat (``calibration.qdq``), whoever quantises it.
_SCALE_IMAGE = _Step(scale_image, (FP32, INT8))
_SUMS, _TIES = "sums in another order", "another class at ties of one rounding"
_TENSORRT = (
    _Step(residual_as_difference, last=True),
    _Step(prelu_as_max, last=True),
    _Step(argmax_by_class, last=True, fixed_size=True, note=_TIES),
    _Step(bytes_from_float, last=True),
)
_STEPS = {
    "portable": (_SCALE_IMAGE,),
    "ort-cpu": (
        _Step(sink_concat, note=_SUMS),
        _Step(winograd, (FP32,), fixed_size=True, note=WINOGRAD_NOTE),
        _Step(argmax_by_cell, note=_TIES),
        # Its depthwise convolutions are no layers of the network: they get no Q/DQ.
        _Step(prelu_as_relu, last=True, note="one rounding"),
    ),
    "ort-cuda": (_SCALE_IMAGE,),
    # OpenVINO in bfloat16 or FP16, and int8 beside it; in FP32 it is faster with PRelu.
    "openvino-half": (_SCALE_IMAGE, _Step(prelu_as_max, last=True)),
    "tensorrt": (_SCALE_IMAGE, *_TENSORRT),
    "tensorrt-rtx": (
        _SCALE_IMAGE,
        _Step(sink_first_concat, (FP32, FP16), note=_SUMS),  # in INT8 it moves more
        *_TENSORRT,
        _Step(one_weight_scale, (INT8,), last=True, note="factors and sums are rounded"),
        _Step(depthwise_as_taps, last=True, note=_SUMS),
        _Step(pools_as_slices, last=True, fixed_size=True, note=f"mean pools: {_SUMS}"),
    ),
}
TARGETS = tuple(_STEPS)
PASS_NAMES = tuple(dict.fromkeys(step.name for steps in _STEPS.values() for step in steps))


def check_passes(names: tuple[str, ...], target: str | None = None) -> None:
    """Raise InputError if one of these is no name of a pass, or ``target`` has no such pass."""
    own = [step.name for step in _STEPS[target]] if target else []
    for name in names:
        if name not in PASS_NAMES:
            raise InputError(f"unknown graph pass {name!r}", f"one of {', '.join(PASS_NAMES)}")
        if target and name not in own:
            expected = f"one of {', '.join(own)}"
            raise InputError(f"--without-pass {name}, which {target} lacks", expected)


def optimize(
    model: ir.Model,
    target: str,
    precision: str,
    *,
    last: bool = False,
    without: tuple[str, ...] = (),
) -> tuple[ir.Model, tuple[PassInfo, ...]]:
    """Apply the passes of ``target``; return the graph, and how many places each one changed.

    A pass that needs a fixed size is recorded with no change if each call chooses the size.

    Args:
        model: a graph with constant weights; it is not modified.
        target: one of ``TARGETS``.
        precision: of the artifact: ``fp32``, ``fp16`` or ``int8``.
        last: False for the passes before Q/DQ and FP16, True for those behind them.
        without: names of passes to leave out.

    Raises:
        InputError: the target has no pass of a name in ``without``.
    """
    check_passes(without, target)
    steps = [step for step in _STEPS[target] if step.last == last]
    steps = [step for step in steps if precision in step.precisions and step.name not in without]
    sides = [(value, axis) for value in model.graph.inputs for axis in image_axes(value)[1:]]
    open_size = not all(v.shape is not None and isinstance(v.shape[a], int) for v, a in sides)
    applied = []
    for number, step in enumerate(steps):
        model, changed = step.change(model if number else tidy(model.clone()))
        model = tidy(model)
        if changed or (step.fixed_size and open_size):
            applied.append(PassInfo(step.name, len(changed), step.note if changed else NO_SIZE))
    return model, tuple(applied)
