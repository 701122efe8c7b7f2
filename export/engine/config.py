"""How the builder is told what to build: network flags, builder flags, profile, targets.

API: ``NetworkDefinitionCreationFlag``, ``IBuilderConfig``. Names are asked of the module, and no
version number is compared; the integers behind them shift between versions.
"""

from __future__ import annotations

from typing import Any

from dabnet.errors import BuildError
from dabnet.runtime.trt.product import Product
from export.engine.profile import Profile
from export.engine.spec import BuildSpec


def network_flags(product: Product, spec: BuildSpec) -> int:
    """Strongly typed where that exists: the ONNX file's types are then the engine's types.

    TensorRT 8.6 has it not, and needs EXPLICIT_BATCH for ONNX, which later versions always have. A
    calibrator chooses types itself, so its network must not be strongly typed.
    """
    flags = product.module.NetworkDefinitionCreationFlag
    typed = takes_types_from_onnx(product, spec)
    return 1 << int(flags.STRONGLY_TYPED if typed else flags.EXPLICIT_BATCH)


def takes_types_from_onnx(product: Product, spec: BuildSpec) -> bool:
    """Whether the network is strongly typed; precision flags are an error for such a one."""
    return product.is_strongly_typed and not spec.calibrator


def configure(product: Product, config: Any, spec: BuildSpec) -> None:
    """Set what does not depend on the network.

    Raises:
        BuildError: the product refused a target.
    """
    trt = product.module
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or no types can be read back
    if spec.workspace_mib:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, spec.workspace_mib << 20)
    # TF32 is on by default, and its mantissa has 10 bits: FP32 must mean FP32.
    if spec.precision == "fp32" and hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    if not takes_types_from_onnx(product, spec) and spec.precision in ("fp16", "int8"):
        config.set_flag(getattr(trt.BuilderFlag, spec.precision.upper()))
    if spec.hardware_compatible:
        level = spec.hardware_compatible.upper().replace("-", "_")
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if spec.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if product.builds_ahead_of_time:
        _set_targets(product, config, spec.capabilities or ("CURRENT",))


def add_profile(
    product: Product, builder: Any, config: Any, tensor: str, profile: Profile, calibrated: bool
) -> None:
    """Add the range of shapes of the input ``tensor``; calibration uses its best shape.

    Raises:
        BuildError: the product refused the profile.
    """
    shapes = builder.create_optimization_profile()
    shapes.set_shape(tensor, *profile)
    index = config.add_optimization_profile(shapes)
    if index < 0 or (calibrated and not config.set_calibration_profile(shapes)):
        raise BuildError(
            f"{product.name} {product.version} refused the input shapes {profile}",
            fix="give other --min-shape, --opt-shape and --max-shape",
        )


def _set_targets(product: Product, config: Any, names: tuple[str, ...]) -> None:
    """TensorRT-RTX: without a target it would build a portable engine, also where there is a GPU.

    Source: ``IBuilderConfig.set_compute_capability`` and ``num_compute_capabilities``.
    """
    known = product.module.ComputeCapability
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        if not config.set_compute_capability(getattr(known, name), index):
            raise BuildError(
                f"{product.name} {product.version} refused the target {name.lower()}",
                f"one of {', '.join(product.targets)}",
            )
