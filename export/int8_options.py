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
        default="mse",
        show_default=True,
        help="mse, entropy, minmax, percentile (99.99) or percentile:P.",
    ),
)
