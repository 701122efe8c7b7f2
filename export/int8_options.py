"""Options of ``dabnet-export`` that only an INT8 artifact has."""

from __future__ import annotations

from pathlib import Path

import click

from dabnet.console import options

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
