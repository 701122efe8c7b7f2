"""Options of ``dabnet-export`` that only an INT8 artifact has.

The options of ``dabnet-export trt`` that say what engine to build.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from dabnet.console import options
from dabnet.errors import InputError

int8_options = options(
    click.option(
        "--placement",
        type=click.Choice(["conv-inputs", "dense-only", "tensorrt", "all"]),
        default="conv-inputs",
        show_default=True,
        help="What INT8 rounds.",
    ),
    click.option(
        "--rest",
        type=click.Choice(["fp32", "fp16"]),
        default="fp32",
        show_default=True,
        help="What INT8 does not round; fp16 is opset 19, for TensorRT 10 and later.",
    ),
    click.option(
        "--float-layer",
        "float_layers",
        multiple=True,
        help="Convolution that INT8 leaves in float, such as init_conv.0; may be repeated.",
    ),
    click.option(
        "--equalize", is_flag=True, help="Bring the channels of each tensor to one range first."
    ),
    click.option(
        "--fit-weights",
        is_flag=True,
        help="Fit INT8 weights and biases to the FP32 outputs of each convolution.",
    ),
    click.option(
        "--max-drop",
        type=click.FloatRange(0),
        help="Most mIoU points that INT8 may lose: layers go to float until it holds.",
    ),
    click.option(
        "--max-disagreement",
        type=click.FloatRange(0, 100),
        help="Most pixels in percent that INT8 may change: likewise.",
    ),
    click.option(
        "--budget-images",
        type=int,
        default=32,
        show_default=True,
        help="Training images, other than those that calibrate, to measure that on.",
    ),
    click.option(
        "--card",
        type=click.Choice(["gtx-1080-ti", "rtx-3090", "rtx-4090", "h200"]),
        default="rtx-3090",
        show_default=True,
        help="GPU whose time decides which layers are worth INT8 (a model, no measurement).",
    ),
    click.option(
        "--calibration",
        "calibration_file",
        type=click.Path(path_type=Path),
        help="Statistics of 'dabnet-export calibration collect', instead of calibrating.",
    ),
    click.option(
        "--calibration-images",
        type=int,
        default=48,
        show_default=True,
        help="Training images for the INT8 ranges.",
    ),
    click.option(
        "--calibration-method",
        help="mse, entropy, minmax, percentile (99.99) or percentile:P."
        "  [default: mse, or the ranges of --qat]",
    ),
)


class BatchSize(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """BATCHxHEIGHTxWIDTH, the last two in pixels."""

    name = "NxHxW"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", value.strip())
        if match is None:
            self.fail(f"{value!r} is not a shape; expected BATCHxHEIGHTxWIDTH, such as 1x512x1024")
        return int(match[1]), int(match[2]), int(match[3])


build_options = options(
    click.option("--target", help="Card to build for without a GPU, such as sm86 (TensorRT-RTX)."),
    click.option(
        "--workspace-mib", type=click.IntRange(1), help="Limit of the builder's workspace."
    ),
    click.option("--product", type=click.Choice(["tensorrt", "tensorrt-rtx"])),
    click.option(
        "--min-shape",
        type=BatchSize(),
        help="Smallest input of an ONNX file with dynamic sides.  [default: batch 1, half the"
        " height and width of the best]",
    ),
    click.option(
        "--opt-shape",
        type=BatchSize(),
        help="Input that it is fastest at.  [default: the one it was exported at]",
    ),
    click.option(
        "--max-shape", type=BatchSize(), help="Largest input.  [default: each side twice the best]"
    ),
    click.option(
        "--hardware-compatible",
        type=click.Choice(["ampere-plus", "same-compute-capability"]),
        help="Other GPUs that are to run the engine (TensorRT).",
    ),
    click.option(
        "--version-compatible", is_flag=True, help="Later versions are to run it (TensorRT)."
    ),
    click.option(
        "--timing-cache",
        type=click.Path(path_type=Path),
        help="File of kernel timings, read and written: later builds are faster (TensorRT).",
    ),
    click.option(
        "--int8-calibrator",
        "calibrator",
        type=click.Choice(["entropy", "minmax"]),
        help="TensorRT 8 and 10 choose the INT8 ranges of an FP32 ONNX file themselves.",
    ),
    click.option(
        "--calibration-cache",
        type=click.Path(path_type=Path),
        help="File of the calibrator's ranges, read where it exists and else written.",
    ),
)
"""Adds them to a command, which gets them by the names of ``BuildSpec``."""


def refuse_export_options(names: Iterable[str], onnx_path: Path) -> None:
    """Raise InputError where an option was typed that only the export of a checkpoint heeds.

    ``names`` are parameters of the running command.
    """
    context = click.get_current_context()
    typed = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in names
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if typed:
        raise InputError(
            f"{', '.join(typed)} for the ONNX file {str(onnx_path)!r}",
            "a checkpoint, which is exported with them",
            "leave them out, or export the ONNX file again with: dabnet-export onnx",
        )
