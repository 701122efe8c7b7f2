"""The request for an engine, and the job that it becomes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dabnet.data.images import SizedImages
from dabnet.errors import InputError
from dabnet.models import check_size
from dabnet.precision import EXPORTED, FP32, INT8
from dabnet.runtime.manifest import Manifest
from dabnet.runtime.trt.product import PRODUCTS, TENSORRT_RTX, Product
from export.engine.progress import OpenPhases

CALIBRATORS = ("entropy", "minmax")
HARDWARE_LEVELS = ("ampere-plus", "same-compute-capability")
THIS_GPU = "this-gpu"

Shape = tuple[int, int, int]
"""(batch, height, width); the last two in pixels."""

Profile = tuple[tuple[int, ...], ...]
"""() for a static engine, else the smallest, best and largest shape of the input tensor."""

Tell = Callable[[str], None]
ImagesOfSize = Callable[[tuple[int, int]], SizedImages]
"""(height, width) → training images of that size, for an INT8 calibrator."""


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """A request for a TensorRT engine; raises InputError where no machine could meet it.

    Attributes:
        precision: ``fp32``, ``fp16`` or ``int8``: that of the ONNX file, checked, never converted;
            with a ``calibrator`` the file is ``fp32`` and the engine ``int8``.
        target: compute capabilities to build for ahead of time, without such a GPU, such as
            ``sm86`` or ``sm86,sm89`` (TensorRT-RTX only); None builds for this machine's GPU.
        workspace_mib: limit of the builder's scratch memory in MiB; None keeps TensorRT's own.
        product: ``tensorrt`` or ``tensorrt_rtx``; None takes the one that is installed.
        min_shape, opt_shape, max_shape: the smallest, the best served and the largest input of an
            ONNX file with dynamic sides; None derives each (``export.engine.profile``).
        hardware_compatible: ``ampere-plus`` or ``same-compute-capability``: which other GPUs run
            the engine; None is this GPU's model alone.
        version_compatible: whether later versions of TensorRT can run the engine.
        timing_cache: file of kernel timings to read and write; None keeps none.
        calibrator: ``entropy`` or ``minmax``: TensorRT itself chooses the INT8 ranges of an FP32
            ONNX file; None takes them from the file's Q/DQ.
        calibration_cache: file of the calibrator's ranges, read where it exists and written
            otherwise; None keeps none.
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
        for what, value, choices in (
            ("precision", self.precision, EXPORTED),
            ("product", self.product, PRODUCTS),
            ("hardware compatibility", self.hardware_compatible, HARDWARE_LEVELS),
            ("INT8 calibrator", self.calibrator, CALIBRATORS),
        ):
            if value is not None and value not in choices:
                raise InputError(f"{what} {value!r}", f"one of {', '.join(choices)}")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise InputError(f"a workspace of {self.workspace_mib} MiB", "1 or more")
        for shape in self.shapes.values():
            if shape[0] < 1:
                raise InputError(f"shape {'x'.join(map(str, shape))}", "a batch of at least 1")
            check_size(*shape[1:])
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

    def _check_calibrator(self) -> None:
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
    """Everything that one run of the builder needs.

    Attributes:
        onnx_path, manifest, graph_sha256: the ONNX file, the manifest inside it, its graph's hash.
        spec, product, profile: what to build, with which TensorRT, for which input shapes.
        images: for a calibrator; None where its cache must do.
        tell, phases: where progress goes: in words, and as phases of the builder.
    """

    onnx_path: Path
    manifest: Manifest
    graph_sha256: str
    spec: BuildSpec
    product: Product
    profile: Profile
    images: ImagesOfSize | None
    tell: Tell
    phases: OpenPhases
