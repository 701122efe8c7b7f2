"""The request for an engine, the input shapes that follow from it, and the build itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dabnet.errors import InputError
from dabnet.precision import EXPORTED, FP32, INT8
from dabnet.runtime.manifest import DYNAMIC, Manifest, Profile, TensorInfo
from dabnet.runtime.trt.product import PRODUCTS, TENSORRT_RTX, Product
from export.spec import MOST_BATCH, Option, option, options_of

if TYPE_CHECKING:
    from dabnet.data.images import SizedImages
    from dabnet.runtime.trt.layers import Operators
    from export.engine.progress import OpenPhases

CALIBRATORS = ("entropy", "minmax")
THIS_GPU = "this-gpu"
ENGINE = "Engine"
"""Heading of options in ``--help``."""

Shape = tuple[int, int, int]
"""(batch, height, width); the last two in pixels."""


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """A TensorRT engine to make: each field is an option of ``dabnet-export trt``.

    Attributes (those whose help does not say it):
        precision: that of the ONNX file, checked, never converted; with a ``calibrator`` the file
            is ``fp32`` and the engine ``int8``.
        target: may be several, such as ``sm86,sm89``; None builds for a GPU of this machine.
        device: number of that GPU, as CUDA counts.
        product: None takes the one that is installed.
        min_shape, opt_shape, max_shape: None derives each (``profile_of``).
        calibrator: None takes the INT8 ranges from the file's Q/DQ.

    Raises:
        InputError: no machine could meet the request.
    """

    precision: str
    target: str | None = option(None, "Build without a GPU (TensorRT-RTX), for such as sm86.")
    workspace_mib: int | None = option(
        None, "Maximum scratch memory in MiB.", least=1, most=1 << 20, under=ENGINE
    )
    product: str | None = option(
        None, "Library", choices=PRODUCTS, shown="the installed one", under=ENGINE
    )
    min_shape: tuple[int, int, int] | None = option(
        None, "Smallest input.", shown="1 x half of the best", under=ENGINE
    )
    opt_shape: tuple[int, int, int] | None = option(
        None, "Input of the best speed.", shown="as exported", under=ENGINE
    )
    max_shape: tuple[int, int, int] | None = option(
        None, "Largest input.", shown="twice the best", under=ENGINE
    )
    hardware_compatible: str | None = option(
        None,
        "For other GPUs too",
        choices=("ampere-plus", "same-compute-capability"),
        under=ENGINE,
    )
    version_compatible: bool = option(False, "For later versions of TensorRT too.", under=ENGINE)
    timing_cache: Path | None = option(  # noqa: RUF009 (a declaration)
        None, "Timings of kernels: later builds are faster.", under=ENGINE
    )
    calibrator: str | None = option(
        None,
        "TensorRT 8 and 10 choose the ranges.",
        choices=CALIBRATORS,
        name="--int8-calibrator",
        under=ENGINE,
    )
    calibration_cache: Path | None = option(  # noqa: RUF009 (a declaration)
        None, "The calibrator's ranges, read or written.", under=ENGINE
    )
    device: int = 0

    def __post_init__(self) -> None:
        Option(name="--precision", choices=EXPORTED).check(self.precision)
        for name, (asked, _) in options_of(self).items():
            asked.check(getattr(self, name))
        for shape in self.shapes.values():
            if min(shape) < 1 or shape[0] > MOST_BATCH:
                expected = f"sides of at least 1, and at most {MOST_BATCH} images"
                raise InputError(f"shape {'x'.join(map(str, shape))}", expected)
        if self.calibrator and self.precision != INT8:
            given = f"an INT8 calibrator with precision {self.precision!r}"
            fix = "leave --int8-calibrator out, or pass --precision int8"
            raise InputError(given, INT8, fix)
        if self.calibration_cache and not self.calibrator:
            given = f"the calibration cache {str(self.calibration_cache)!r} without a calibrator"
            raise InputError(given, f"--int8-calibrator {' or '.join(CALIBRATORS)} with it")
        if self.target is not None:
            self._check_target(self.target)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """``sm86,sm89`` → (``SM86``, ``SM89``), the names of ``ComputeCapability``; () for none."""
        return tuple(self.target.upper().split(",")) if self.target else ()

    @property
    def wanted_product(self) -> str | None:
        """An ahead-of-time target needs TensorRT-RTX."""
        return TENSORRT_RTX if self.target else self.product

    @property
    def onnx_precision(self) -> str:
        """The precision that the ONNX file must have."""
        return FP32 if self.calibrator else self.precision

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shapes that were given, by the name of their option."""
        shapes = {"min": self.min_shape, "opt": self.opt_shape, "max": self.max_shape}
        return {f"--{name}-shape": shape for name, shape in shapes.items() if shape}

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


@dataclass(frozen=True, slots=True)
class Job:
    """One run of the builder. ``images`` is None where a calibrator's cache must do."""

    onnx_path: Path
    manifest: Manifest  # of the ONNX file
    graph_sha256: str
    operators: Operators  # of its graph
    asked: dict[str, int]  # its convolutions by precision
    spec: BuildSpec
    product: Product
    profile: Profile
    images: ImagesOfSize | None
    tell: Tell  # in words what goes on
    phases: OpenPhases


Tell = Callable[[str], None]
ImagesOfSize = Callable[[tuple[int, int]], "SizedImages"]
"""(height, width) → training images of that size, for an INT8 calibrator."""


def profile_of(tensor: TensorInfo, example: Shape, stride: int, spec: BuildSpec) -> Profile:
    """Smallest, best and largest shape of the input; () for a file without dynamic sides.

    API: ``IOptimizationProfile``. TensorRT picks kernels that are fastest at the best shape and
    right for every shape between. By default the best is ``example``, at which the ONNX file was
    checked; the batch goes from 1 to twice its batch, height and width from half to twice.

    Raises:
        InputError: a shape was given for a file without dynamic sides, differs from the file in a
            fixed side, is no multiple of the stride, or the shapes are not in order.
    """
    if DYNAMIC not in tensor.shape:
        if spec.shapes:
            named = " and ".join(spec.shapes)
            given = f"{named} for an ONNX file of the fixed shape {_text(example)}"
            fix = "leave the option out, or export the ONNX file with dynamic sides"
            raise InputError(given, "one with dynamic sides", fix)
        return ()
    best = spec.opt_shape or example
    halves = (max(stride, side // 2 // stride * stride) for side in best[1:])
    smallest = spec.min_shape or _where_dynamic(tensor, (1, *halves))
    largest = spec.max_shape or _where_dynamic(tensor, tuple(2 * side for side in best))
    for name, shape in spec.shapes.items():
        if _where_dynamic(tensor, shape) != shape:
            raise InputError(
                f"{name} {_text(shape)}",
                f"{_text(tensor.sides)}, the ONNX file's shape, with numbers for its ?",
                "export the ONNX file with more dynamic sides to change the others",
            )
        if any(side % stride for side in shape[1:]):
            expected = f"a height and width that are multiples of {stride}"
            raise InputError(f"{name} {_text(shape)}", expected)
    ordered = zip(smallest, best, largest, strict=True)
    if not all(least <= middle <= most for least, middle, most in ordered):
        raise InputError(
            f"input shapes from {_text(smallest)} over {_text(best)} (best) to {_text(largest)}",
            "no side of one above the same side of the next",
            "pass --min-shape, --opt-shape and --max-shape together",
        )
    return (_laid_out(tensor, smallest), _laid_out(tensor, best), _laid_out(tensor, largest))


def _text(shape: tuple[int, ...]) -> str:
    return "x".join("?" if side == DYNAMIC else str(side) for side in shape)


def _laid_out(tensor: TensorInfo, shape: Shape) -> tuple[int, ...]:
    """(batch, height, width) → a shape in the tensor's layout."""
    if tensor.dtype == "uint8":
        return (*shape, tensor.shape[3])
    return (shape[0], tensor.shape[1], *shape[1:])


def _where_dynamic(tensor: TensorInfo, shape: tuple[int, ...]) -> Shape:
    """``shape`` where the file's side is dynamic, the file's own side elsewhere."""
    sides = zip(tensor.sides, shape, strict=True)
    batch, height, width = (wanted if side == DYNAMIC else side for side, wanted in sides)
    return batch, height, width
