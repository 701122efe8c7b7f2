"""Refusals of what is known to fail, or to be useless, before the minutes of an engine build."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from ctypes import CDLL
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dabnet.errors import PASCAL_STACK, ArtifactError, BuildError
from dabnet.precision import FP16
from dabnet.runtime.cuda import open_device_memory
from dabnet.runtime.manifest import Manifest
from dabnet.runtime.trt.product import Product
from export.engine.caches import PLAIN
from export.engine.spec import BuildSpec

Capability = tuple[int, int]
"""Compute capability, such as (8, 6)."""


@dataclass(frozen=True, slots=True)
class Card:
    """The GPU that builds; all empty for an ahead-of-time build."""

    name: str = ""
    compute_capability: Capability | None = None
    driver: str = ""


def building_card(spec: BuildSpec) -> Card:
    """This machine's GPU, empty where ``spec`` builds for another; BackendUnavailable if none."""
    if spec.target:
        return Card()
    with closing(open_device_memory(spec.device)) as memory:
        return Card(memory.name, memory.compute_capability, memory.driver)


def refuse_early(
    spec: BuildSpec, product: Product, capability: Capability | None = None, mask_dtype: str = ""
) -> None:
    """Raise BuildError for what the product or the card cannot do.

    ``capability`` is None for an ahead-of-time build, ``mask_dtype`` "" for an unknown output.
    """
    if capability:
        _refuse_card(spec, product, capability)
    if spec.target and not product.builds_ahead_of_time:
        given = f"{product} cannot build for {spec.target}"
        raise BuildError(given, "TensorRT-RTX for a --target", "pip install '.[rtx]'")
    for name in map(str.lower, spec.capabilities):
        if name not in product.targets:
            known = f"one of {', '.join(product.targets)}"
            raise BuildError(f"{product} takes no target {name}", known)
    if product.is_generation_8 and mask_dtype in ("uint8", "int64"):
        fix = "export the ONNX file again with --mask-dtype int32"
        given = f"a {mask_dtype} mask with {product}, which cannot emit {mask_dtype}"
        raise BuildError(given, "an int32 mask", fix)
    if spec.calibrator and not product.has_calibrators:
        expected = "an ONNX file that carries its ranges as Q/DQ"
        fix = "export it with: dabnet-export onnx --precision int8"
        raise BuildError(f"an INT8 calibrator with {product}, which has none", expected, fix)
    if spec.timing_cache and not product.has_timing_cache:
        given = f"a timing cache with {product}, which times no kernels"
        raise BuildError(given, "TensorRT for a timing cache", "leave --timing-cache out")
    _refuse_compatibility(spec, product)
    if capability and spec.version_compatible:
        _load_lean(product)


def refuse_precision(manifest: Manifest, spec: BuildSpec, onnx_path: Path) -> None:
    """Raise ArtifactError unless the ONNX file can give an engine of the precision asked for."""
    wanted = spec.onnx_precision
    if spec.calibrator and manifest.input.dtype != "uint8":
        given = f"{str(onnx_path)!r} takes {manifest.input.dtype}"
        fix = "export the ONNX file again with --input uint8"
        raise ArtifactError(given, "uint8 images for an INT8 calibrator", fix)
    if spec.calibrator and manifest.optimized_for != PLAIN:
        given = f"{str(onnx_path)!r} is optimised for {manifest.optimized_for}"
        fix = f"export the ONNX file again with --optimize-for {PLAIN}"
        raise ArtifactError(given, f"the {PLAIN} graph for an INT8 calibrator", fix)
    if manifest.precision == wanted:
        return
    expected = f"{wanted}, as asked for: an engine has the precision of its ONNX file"
    fix = f"export it again with: dabnet-export onnx --precision {wanted}"
    if spec.calibrator:
        expected = "fp32 for an INT8 calibrator, which chooses the ranges itself"
        fix = f"leave --int8-calibrator out, or {fix}"
    raise ArtifactError(f"{str(onnx_path)!r} is {manifest.precision}", expected, fix)


def _refuse_card(spec: BuildSpec, product: Product, capability: Capability) -> None:
    number = "compute capability {}.{}".format(*capability)
    if capability < (7, 0) and not product.is_generation_8:
        fix = f"install its stack: {PASCAL_STACK}"
        given = f"{product} does not run on this GPU ({number})"
        raise BuildError(given, "TensorRT 8.6, the last for Pascal", fix)
    if capability == (6, 1) and spec.precision == FP16:
        given = f"fp16 on {number}, whose FP16 arithmetic runs at 1/64 of FP32"
        raise BuildError(given, "fp32 or int8 on this GPU", "export one of these")
    if spec.hardware_compatible == "ampere-plus" and capability < (8, 0):
        expected = "a GPU of the Ampere generation (8.0) or later to build on"
        fix = "build on such a GPU, or leave the option out"
        raise BuildError(f"--hardware-compatible ampere-plus on {number}", expected, fix)


def _refuse_compatibility(spec: BuildSpec, product: Product) -> None:
    wanted = spec.hardware_compatible
    known = [level.lower().replace("_", "-") for level in product.hardware_levels]
    if wanted and wanted not in known:
        raise BuildError(
            f"--hardware-compatible {wanted} with {product}",
            " or ".join(known) or "TensorRT for hardware-compatible engines",
            "name all cards in --target, such as sm86,sm89"
            if product.builds_ahead_of_time
            else "leave the option out, or install a later TensorRT",
        )
    if spec.version_compatible and not product.is_version_compatible:
        given = f"--version-compatible with {product}, which builds for its own version alone"
        fix = "leave the option out, and build again with each version"
        raise BuildError(given, "TensorRT for version-compatible engines", fix)


def refuse_slow(builder: Any, spec: BuildSpec, product: Product) -> None:
    """Raise BuildError where the builder reports that the card lacks fast FP16 or INT8.

    Source: ``Builder.platform_has_fast_fp16`` and ``platform_has_fast_int8`` (TensorRT 8 and 10;
    every card that the later products serve has both).
    """
    name = f"platform_has_fast_{spec.precision}"
    if hasattr(type(builder), name) and not getattr(builder, name):
        given = f"{spec.precision} on a GPU that lacks fast {spec.precision} ({product}: {name})"
        raise BuildError(given, "a precision that this GPU computes in", "build fp32")


def _load_lean(product: Product) -> None:
    """Load the runtime that a version-compatible engine brings along; BuildError if it is missing.

    The builder asks for it by name at the end of the build (``libnvinfer_lean.so.10: cannot open
    shared object file``). ``pip install tensorrt`` does not bring it, and the linker does not look
    into wheels: once it is loaded from there, the builder finds it.
    """
    major = product.version.partition(".")[0]
    library = f"libnvinfer_lean.so.{major}"
    for place in (library, *(str(folder / library) for folder in _wheel_folders())):
        with suppress(OSError):
            CDLL(place)
            return
    wheel = f"pip install {_lean_wheel()}=={product.version}"
    raise BuildError(
        f"--version-compatible without {library}, which {product} packs into the engine",
        "TensorRT's lean runtime",
        f"install it with: {wheel}, or the Debian package libnvinfer-lean{major}",
    )


def _wheel_folders() -> Iterator[Path]:
    """Folders of the libraries in NVIDIA's wheels (``tensorrt-lean-cu12-libs`` and the like)."""
    for package in ("tensorrt_lean_libs", "tensorrt_libs"):
        found = find_spec(package)
        yield from map(Path, (found and found.submodule_search_locations) or ())


def _lean_wheel() -> str:
    """``tensorrt-lean-cu12`` for an installed ``tensorrt-cu12``, and the like."""
    for name in ("tensorrt-cu13", "tensorrt-cu12"):
        with suppress(metadata.PackageNotFoundError):
            metadata.distribution(name)
            return name.replace("tensorrt", "tensorrt-lean")
    return "tensorrt-lean"
