"""The request for an engine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dabnet.errors import InputError
from dabnet.precision import EXPORTED, FP32, INT8
from dabnet.runtime.trt.product import PRODUCTS, TENSORRT_RTX
from export.option import Option, option, options_of

CALIBRATORS = ("entropy", "minmax")
THIS_GPU = "this-gpu"

Shape = tuple[int, int, int]
"""(batch, height, width); the last two in pixels."""


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """A TensorRT engine to make: each field is an option of ``dabnet-export trt``.

    Attributes (those whose help does not say it):
        precision: that of the ONNX file, checked, never converted; with a ``calibrator`` the file
            is ``fp32`` and the engine ``int8``.
        target: compute capabilities to build for ahead of time, such as ``sm86`` or ``sm86,sm89``;
            None builds for this machine's GPU.
        product: None takes the one that is installed.
        min_shape, opt_shape, max_shape: None derives each (``export.engine.profile``).
        hardware_compatible: None is this GPU's model alone.
        calibrator: None takes the INT8 ranges from the file's Q/DQ.

    Raises:
        InputError: no machine could meet the request.
    """

    precision: str
    target: str | None = option(
        None, "--target", "Card to build for without a GPU, such as sm86 (TensorRT-RTX)."
    )
    workspace_mib: int | None = option(
        None, "--workspace-mib", "Limit of the builder's scratch memory in MiB.", least=1
    )
    product: str | None = option(None, "--product", choices=PRODUCTS)
    min_shape: tuple[int, int, int] | None = option(
        None,
        "--min-shape",
        "Smallest input of an ONNX file with dynamic sides.  [default: batch 1, half the height"
        " and width of the best]",
    )
    opt_shape: tuple[int, int, int] | None = option(
        None,
        "--opt-shape",
        "Input that it is fastest at.  [default: the one it was exported at]",
    )
    max_shape: tuple[int, int, int] | None = option(
        None, "--max-shape", "Largest input.  [default: each side twice the best]"
    )
    hardware_compatible: str | None = option(
        None,
        "--hardware-compatible",
        "Other GPUs that run the engine (TensorRT).",
        choices=("ampere-plus", "same-compute-capability"),
    )
    version_compatible: bool = option(
        False, "--version-compatible", "Later versions run it too (TensorRT)."
    )
    timing_cache: Path | None = option(  # noqa: RUF009 (a declaration)
        None,
        "--timing-cache",
        "File of kernel timings, read and written: later builds are faster (TensorRT).",
    )
    calibrator: str | None = option(
        None,
        "--int8-calibrator",
        "TensorRT 8 and 10 choose the INT8 ranges of an FP32 ONNX file themselves.",
        choices=CALIBRATORS,
    )
    calibration_cache: Path | None = option(  # noqa: RUF009 (a declaration)
        None,
        "--calibration-cache",
        "File of the calibrator's ranges, read if it exists, written otherwise.",
    )

    def __post_init__(self) -> None:
        Option("--precision", choices=EXPORTED).check(self.precision)
        for name, (asked, _) in options_of(self).items():
            asked.check(getattr(self, name))
        for shape in self.shapes.values():
            if min(shape) < 1:
                raise InputError(f"shape {'x'.join(map(str, shape))}", "sides of at least 1")
        if self.calibrator and self.precision != INT8:
            raise InputError(
                f"an INT8 calibrator with precision {self.precision!r}",
                "int8",
                "leave --int8-calibrator out, or pass --precision int8",
            )
        if self.calibration_cache and not self.calibrator:
            raise InputError(
                f"the calibration cache {str(self.calibration_cache)!r} without a calibrator",
                f"--int8-calibrator {' or '.join(CALIBRATORS)} with it",
            )
        if self.target is not None:
            self._check_target(self.target)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """``sm86,sm89`` → (``SM86``, ``SM89``), the names of ``ComputeCapability``; () for none."""
        return tuple(self.target.upper().split(",")) if self.target else ()

    @property
    def wanted_product(self) -> str | None:
        """The product that this build needs: an ahead-of-time target needs TensorRT-RTX."""
        return TENSORRT_RTX if self.target else self.product

    @property
    def onnx_precision(self) -> str:
        """The precision that the ONNX file must have."""
        return FP32 if self.calibrator else self.precision

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shapes that were given, by the name of their option."""
        shapes = (self.min_shape, self.opt_shape, self.max_shape)
        named = zip(("--min-shape", "--opt-shape", "--max-shape"), shapes, strict=True)
        return {name: shape for name, shape in named if shape}

    @property
    def compatibility(self) -> tuple[str, ...]:
        """As ``EngineInfo.compatibility`` records it."""
        level = self.hardware_compatible
        levels = ("hardware" if level == "ampere-plus" else level,) if level else ()
        return (*levels, "version") if self.version_compatible else levels

    def _check_target(self, target: str) -> None:
        names = target.split(",")
        if not all(re.fullmatch(r"sm\d{2,3}", name) for name in names):
            expected = "compute capabilities such as sm86, or sm86,sm89"
            fix = "look a card's up at https://developer.nvidia.com/cuda-gpus"
        elif len(set(names)) < len(names):
            expected, fix = "each compute capability once", ""
        elif self.product not in (None, TENSORRT_RTX):
            expected = f"the product {TENSORRT_RTX}: only TensorRT-RTX builds for another GPU"
            fix = "leave --target out and build on the target machine, or: pip install '.[rtx]'"
        elif "sm90" in names:
            expected = "no Hopper: TensorRT-RTX does not take sm90 as an ahead-of-time target"
            fix = "build on the Hopper machine, without --target"
        elif "sm75" in names and len(names) > 1:
            # Measured on TensorRT-RTX 1.7.1: with sm75 in the list every convolution of the
            # engine becomes Float, for the other targets too.
            expected = "sm75 alone: in a list it slows the engine for all other targets"
            fix = "build one engine for sm75 and another for the rest"
        else:
            return
        raise InputError(f"--target {target!r}", expected, fix)
