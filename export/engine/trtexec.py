"""The line of ``trtexec``, or of ``tensorrt_rtx``, that builds what ``builder.py`` builds.

Flags of ``trtexec`` 8.6, 10 and 11: NVIDIA/TensorRT, samples/common/sampleOptions.cpp. Those of
``tensorrt_rtx``, whose source is not published: the pages cpu-engines, benchmarking and best
practices of https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/, and for ``--device`` and
``--memPoolSize`` AmusementClub/vs-mlrt, scripts/vsmlrt.py, which runs it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from dabnet.errors import BuildError, InputError, MissingPackage
from dabnet.precision import FP32
from dabnet.runtime.manifest import Manifest
from dabnet.runtime.trt.product import TENSORRT_RTX, Product, find_product
from export.engine.limits import refuse_early, refuse_precision
from export.engine.spec import BuildSpec, profile_of

LEVELS = {"ampere-plus": "ampere+", "same-compute-capability": "sameComputeCapability"}


def trtexec_line(
    onnx_path: Path, output: Path, manifest: Manifest, spec: BuildSpec
) -> tuple[str, list[str]]:
    """Return the line for a shell, and what its reader must know; nothing is built.

    It is for the product that is installed; for TensorRT 10 if none is.

    Raises:
        DabnetError: the build would be refused, or ``trtexec`` has no equal.
    """
    if output.resolve() == onnx_path.resolve():
        raise InputError(f"the output {str(output)!r} is the input", "another name")
    refuse_precision(manifest, spec, onnx_path)
    product, is_rtx = None, spec.wanted_product == TENSORRT_RTX
    try:
        product = find_product(spec.wanted_product)
        is_rtx = product.builds_ahead_of_time
        refuse_early(spec, product, mask_dtype=manifest.output.dtype)
    except MissingPackage:
        _refuse_options_of_tensorrt(spec, is_rtx)
    program = "tensorrt_rtx" if is_rtx else "trtexec"
    flags = [f"--onnx={onnx_path}", f"--saveEngine={output}", "--skipInference"]
    flags += _types(spec, product, is_rtx, program)
    flags += _common(manifest, spec, product)
    notes = [f"the engine of {program} has no manifest: --dataset or --classes describes it"]
    if product is None and not is_rtx:
        notes.append("tensorrt is not installed here: this line is for TensorRT 10")
    if is_rtx:
        flags.append(_target(spec))
        notes.append("tensorrt_rtx has no documented flag for TF32, which dabnet-export turns off")
    return shlex.join([program, *flags]), notes


def _types(spec: BuildSpec, product: Product | None, is_rtx: bool, program: str) -> Iterator[str]:
    """What decides the types of an engine: the ONNX file's, or builder flags."""
    if is_rtx:
        return  # always strongly typed
    yield "--noTF32"
    if spec.calibrator:
        yield "--int8"
        yield f"--calib={_calibration_cache(spec, program)}"
    elif product is None or product.is_strongly_typed:
        yield "--stronglyTyped"
    elif spec.precision != FP32:
        yield f"--{spec.precision}"


def _common(manifest: Manifest, spec: BuildSpec, product: Product | None) -> Iterator[str]:
    yield "--profilingVerbosity=detailed"
    if spec.workspace_mib:
        yield f"--memPoolSize=workspace:{spec.workspace_mib}"
    if spec.timing_cache:
        yield f"--timingCacheFile={spec.timing_cache}"
    if spec.hardware_compatible:
        yield f"--hardwareCompatibilityLevel={LEVELS[spec.hardware_compatible]}"
    if spec.version_compatible:
        yield "--versionCompatible"
    if spec.device:
        yield f"--device={spec.device}"
    profile = profile_of(manifest.input, manifest.example, manifest.stride, spec)
    for name, shape in zip(("min", "opt", "max"), profile, strict=False):
        yield f"--{name}Shapes={manifest.input.name}:{'x'.join(map(str, shape))}"
    if profile and product is not None and product.is_generation_8:
        yield "--preview=+profileSharing0806"


def _target(spec: BuildSpec) -> str:
    """``SM86``, ``SM89`` → ``--computeCapabilities=86,89``; this machine's GPU without a target."""
    numbers = ",".join(name.removeprefix("SM") for name in spec.capabilities)
    return f"--computeCapabilities={numbers}" if numbers else "--useGpu"


def _calibration_cache(spec: BuildSpec, program: str) -> Path:
    """The file of ranges. ``RndInt8Calibrator`` of sampleEngines.cpp reads no images."""
    if spec.calibrator != "entropy":
        given = f"--print-trtexec with --int8-calibrator {spec.calibrator}"
        raise InputError(given, f"entropy, the only calibrator of {program}")
    if spec.calibration_cache is None or not spec.calibration_cache.exists():
        raise InputError(
            f"--print-trtexec with a calibrator that reads images: {program} takes random ones",
            "a --calibration-cache that exists",
            "write one with: dabnet-export calibration CHECKPOINT -o FILE.cache --tensorrt VERSION",
        )
    return spec.calibration_cache


def _refuse_options_of_tensorrt(spec: BuildSpec, is_rtx: bool) -> None:
    """Raise BuildError for options that TensorRT-RTX does not take, where it is not installed."""
    asked = {
        "--int8-calibrator": spec.calibrator,
        "--timing-cache": spec.timing_cache,
        "--hardware-compatible": spec.hardware_compatible,
        "--version-compatible": spec.version_compatible,
    }
    if is_rtx and (names := [name for name, value in asked.items() if value]):
        raise BuildError(f"{' and '.join(names)} with {TENSORRT_RTX}", "TensorRT for them")
