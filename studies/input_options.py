"""Options of the benchmarks that measure a checkpoint's graph on images."""

from __future__ import annotations

from pathlib import Path

import click

from dabnet.console import Size, options

input_options = options(
    click.option(
        "--checkpoint",
        type=click.Path(path_type=Path),
        default=Path(__file__).parents[1] / "weights" / "dabnet_toy_street.pth",
        help="[default: the shipped toy-street weights]",
    ),
    click.option("--data-dir", type=click.Path(path_type=Path), help="[default: drawn scenes]"),
    click.option("--size", type=Size(), default="512x1024", show_default=True),
)
