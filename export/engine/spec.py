"""What engine to build."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dabnet.errors import InputError
from dabnet.models import check_size
from dabnet.runtime.trt.product import PRODUCTS, TENSORRT_RTX

PRECISIONS = ("fp32", "fp16", "int8")
CALIBRATORS = ("entropy", "minmax")
HARDWARE_LEVELS = ("ampere-plus", "same-compute-capability")
THIS_GPU = "this-gpu"

Shape = tuple[int, int, int]
"""(batch, height, width); the last two in pixels."""


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """A request for a TensorRT engine; raises InputError where it cannot be met anywhere.

    Attributes:
        precision: ``fp32``, ``fp16`` or ``int8``: that of the ONNX file, checked, never converted;
            with a ``calibrator`` the file is ``fp32`` and the engine ``int8``.
        target: compute capabilities to build for ahead of time, without such a GPU, such as
            ``sm86`` or ``sm86,sm89`` (TensorRT-RTX only); None builds for this machine's GPU.
        workspace_mib: limit of the builder's scratch memory in MiB; None is TensorRT's own.
        product: ``tensorrt`` or ``tensorrt_rtx``; None takes what is installed.
        min_shape, opt_shape, max_shape: the smallest, the best served and the largest input of an
            ONNX file with dynamic sides; None derives each (``export.engine.profile``).
        hardware_compatible: ``ampere-plus`` or ``same-compute-capability``: which other GPUs the
            engine runs on; None is this GPU's model alone.
        version_compatible: whether later versions of TensorRT can run the engine.
        timing_cache: file of kernel timings to read and write; None keeps none.
        calibrator: ``entropy`` or ``minmax``: TensorRT itself chooses the INT8 ranges of an FP32
            ONNX file; None takes them from the file's Q/DQ.
        calibration_cache: file of the ranges that the calibrator found, read where it exists and
            else written; None keeps none.
    """

    precision: str
    target: str | None = None
    workspace_mib: int | None = None
    product: str | None = None
    min_shape: Shape | None = None
    opt_shape: Shape | None = None
    max_shape: Shape | None = None
    hardware_compatible: str | None = None
    version_compatible: bool = False
    timing_cache: Path | None = None
    calibrator: str | None = None
    calibration_cache: Path | None = None

    def __post_init__(self) -> None:
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("product", self.product, PRODUCTS)
        _check_choice("hardware compatibility", self.hardware_compatible, HARDWARE_LEVELS)
        _check_choice("INT8 calibrator", self.calibrator, CALIBRATORS)
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise InputError(f"a workspace of {self.workspace_mib} MiB", "1 or more")
        for shape in self.shapes.values():
            _check_shape(shape)
        self._check_calibrator()
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
        return "fp32" if self.calibrator else self.precision

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shapes that were given, by the name of their option."""
        named = {
            "--min-shape": self.min_shape,
            "--opt-shape": self.opt_shape,
            "--max-shape": self.max_shape,
        }
        return {name: shape for name, shape in named.items() if shape}

    @property
    def compatibility(self) -> tuple[str, ...]:
        """As ``EngineInfo.compatibility`` records it."""
        names = {None: (), "ampere-plus": ("hardware",)}
        level = names.get(self.hardware_compatible, ("same-compute-capability",))
        return (*level, "version") if self.version_compatible else level

    def _check_calibrator(self) -> None:
        if self.calibrator and self.precision != "int8":
            raise InputError(
                f"an INT8 calibrator with precision {self.precision!r}",
                "int8",
                "leave --int8-calibrator out, or say --precision int8",
            )
        if self.calibration_cache and not self.calibrator:
            raise InputError(
                f"the calibration cache {str(self.calibration_cache)!r} without a calibrator",
                f"--int8-calibrator {' or '.join(CALIBRATORS)} with it",
            )

    def _check_target(self, target: str) -> None:
        if not re.fullmatch(r"sm\d{2,3}(,sm\d{2,3})*", target):
            raise InputError(
                f"--target {target!r}",
                "compute capabilities such as sm86, or sm86,sm89",
                "see https://developer.nvidia.com/cuda-gpus for that of a card",
            )
        names = target.split(",")
        if len(set(names)) < len(names):
            raise InputError(f"--target {target!r}", "each compute capability once")
        if self.product not in (None, TENSORRT_RTX):
            raise InputError(
                f"--target {target!r} with the product {self.product!r}",
                f"{TENSORRT_RTX}: only TensorRT-RTX builds for another GPU than this machine's",
                "leave --target out and build on the target machine, or: pip install '.[rtx]'",
            )
        if "sm90" in names:
            raise InputError(
                f"--target {target!r}",
                "no Hopper: TensorRT-RTX does not take sm90 as an ahead-of-time target",
                "build on the Hopper machine, without --target",
            )
        # Measured on TensorRT-RTX 1.7.1: with sm75 in the list every convolution of the engine
        # becomes Float, for the other targets too.
        if "sm75" in names and len(names) > 1:
            raise InputError(
                f"--target {target!r}",
                "sm75 alone: in a list it slows the engine for all other targets",
                "build one engine for sm75 and another for the rest",
            )


def _check_choice(what: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise InputError(f"{what} {value!r}", f"one of {', '.join(choices)}")


def _check_shape(shape: Shape) -> None:
    if shape[0] < 1:
        raise InputError(f"shape {'x'.join(map(str, shape))}", "a batch of at least 1")
    check_size(*shape[1:])
