"""What engine to build."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dabnet.errors import InputError
from dabnet.runtime.tensorrt_product import PRODUCTS, TENSORRT_RTX

PRECISIONS = ("fp32", "fp16", "int8")
THIS_GPU = "this-gpu"


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """A request for a TensorRT engine; raises InputError where it cannot be met anywhere.

    Attributes:
        precision: ``fp32``, ``fp16`` or ``int8``: that of the ONNX file, checked, never converted.
        target: compute capabilities to build for ahead of time, without such a GPU, such as
            ``sm86`` or ``sm86,sm89`` (TensorRT-RTX only); None builds for this machine's GPU.
        workspace_mib: limit of the builder's scratch memory in MiB; None is TensorRT's own.
        product: ``tensorrt`` or ``tensorrt_rtx``; None takes what is installed.
    """

    precision: str
    target: str | None = None
    workspace_mib: int | None = None
    product: str | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"precision {self.precision!r}", f"one of {', '.join(PRECISIONS)}")
        if self.product is not None and self.product not in PRODUCTS:
            raise InputError(f"product {self.product!r}", f"one of {', '.join(PRODUCTS)}")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise InputError(f"a workspace of {self.workspace_mib} MiB", "1 or more")
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
