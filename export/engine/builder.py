"""One run of the builder: parse, configure, build, read the types of the layers back.

API: ``NetworkDefinitionCreationFlag``, ``IBuilderConfig``. Names are asked of the module, and no
version number is compared; the integers behind them shift between versions.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

from dabnet.errors import BuildError
from dabnet.interrupt import Stop
from dabnet.precision import FP32, PRECISIONS
from dabnet.runtime.cuda import open_device_memory
from dabnet.runtime.trt.layers import layers_from_report, layers_of_engine
from dabnet.runtime.trt.product import Messages, Product, create, logger_of
from export.engine.caches import attach_timing_cache
from export.engine.calibrator import Calibrator
from export.engine.job import Job
from export.engine.limits import refuse_slow
from export.engine.progress import KeptErrors, Phases, interruptible, monitor_handle
from export.engine.spec import BuildSpec


@dataclass(frozen=True, slots=True)
class Built:
    """A serialised engine.

    Attributes:
        plan: a buffer of its bytes.
        layers: number of layers by the type they compute in, as TensorRT reports it.
        calibrator: the calibration it took its ranges from, if it had one.
        config: the builder's configuration, which holds the timings.
    """

    plan: Any
    layers: dict[str, int]
    calibrator: Calibrator | None
    config: Any


def run_builder(job: Job) -> Built:
    """Build the engine in memory.

    Raises:
        BuildError: the parser or the builder refused.
        KeyboardInterrupt: Ctrl-C was pressed; the builder was asked to stop where it can be.
    """
    spec, product, tell = job.spec, job.product, job.tell
    errors = KeptErrors()
    with ExitStack() as stack:
        messages = stack.enter_context(logger_of(product).collect())
        tell(f"{product} reads {job.onnx_path.name}")
        builder = create(product, "Builder")
        refuse_slow(builder, spec, product)
        network = builder.create_network(_network_flags(product, spec))
        _parse(job, network)
        config = builder.create_builder_config()
        _configure(product, config, spec)
        if job.profile:
            _add_profile(job, builder, config)
        if spec.timing_cache:
            attach_timing_cache(product, config, spec.timing_cache, tell)
        tell(f"builds {spec.precision} for {spec.target or 'this GPU'}")
        with interruptible(tell) as stop, job.phases() as phases:
            monitor = _monitor(job, config, phases, stop, errors)
            calibrator = _calibrator(job, config, phases, errors, stack)
            plan = builder.build_serialized_network(network, config)
        del monitor  # TensorRT asks that it outlives the build
        errors.reraise()
        if plan is None:
            raise BuildError(
                f"{product} built no engine: {messages.first_error()}",
                fix="raise --workspace-mib" if spec.workspace_mib else "",
            )
        return Built(plan, _read_back(job, plan, messages), calibrator, config)


def _parse(job: Job, network: Any) -> None:
    parser = job.product.module.OnnxParser(network, logger_of(job.product).handle)
    if parser.parse(job.onnx_path.read_bytes()):
        return
    text = parser.get_error(0).desc() if parser.num_errors else "it gave no reason"
    # What follows in the text on a machine without a driver is TensorRT's complaint about that.
    reason = text.split("\n[checkMacros")[0]
    raise BuildError(
        f"{job.product} cannot parse {str(job.onnx_path)!r}: {reason}",
        fix="export it again with this version of dabnet-export",
    )


def _network_flags(product: Product, spec: BuildSpec) -> int:
    """Strongly typed where that exists: the ONNX file's types are then the engine's types.

    TensorRT 8.6 lacks it, and needs EXPLICIT_BATCH for ONNX, which later versions always have. A
    calibrator chooses types itself, so its network must not be strongly typed.
    """
    flags = product.module.NetworkDefinitionCreationFlag
    typed = _takes_types_from_onnx(product, spec)
    return 1 << int(flags.STRONGLY_TYPED if typed else flags.EXPLICIT_BATCH)


def _takes_types_from_onnx(product: Product, spec: BuildSpec) -> bool:
    """Whether the network is strongly typed; precision flags are an error for such a network."""
    return product.is_strongly_typed and not spec.calibrator


def _configure(product: Product, config: Any, spec: BuildSpec) -> None:
    """Set what does not depend on the network.

    Raises:
        BuildError: the product refused a target.
    """
    trt = product.module
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or no types can be read back
    if spec.workspace_mib:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, spec.workspace_mib << 20)
    # TF32 is on by default, and its mantissa has 10 bits: FP32 must mean FP32.
    if spec.precision == FP32 and hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    if not _takes_types_from_onnx(product, spec) and spec.precision != FP32:
        config.set_flag(getattr(trt.BuilderFlag, PRECISIONS[spec.precision].flag))
    if spec.hardware_compatible:
        level = spec.hardware_compatible.upper().replace("-", "_")
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if spec.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if product.builds_ahead_of_time:
        _set_targets(product, config, spec.capabilities or ("CURRENT",))


def _add_profile(job: Job, builder: Any, config: Any) -> None:
    """Add the range of shapes of the input; calibration uses its best shape.

    Raises:
        BuildError: the product refused the profile.
    """
    shapes = builder.create_optimization_profile()
    shapes.set_shape(job.manifest.input.name, *job.profile)
    index = config.add_optimization_profile(shapes)
    if index < 0 or (job.spec.calibrator and not config.set_calibration_profile(shapes)):
        raise BuildError(
            f"{job.product} refused the input shapes {job.profile}",
            fix="pass other --min-shape, --opt-shape and --max-shape",
        )


def _set_targets(product: Product, config: Any, names: tuple[str, ...]) -> None:
    """TensorRT-RTX: without a target it would build a portable engine, even where there is a GPU.

    Source: ``IBuilderConfig.set_compute_capability`` and ``num_compute_capabilities``.
    """
    known = product.module.ComputeCapability
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        if not config.set_compute_capability(getattr(known, name), index):
            raise BuildError(
                f"{product} refused the target {name.lower()}",
                f"one of {', '.join(product.targets)}",
            )


def _monitor(job: Job, config: Any, phases: Phases, stop: Stop, errors: KeptErrors) -> Any:
    module = job.product.module
    if not hasattr(module, "IProgressMonitor"):
        job.tell(f"{job.product} does not report its progress, and cannot be stopped half-way")
        return None
    config.progress_monitor = monitor = monitor_handle(module, phases, stop, errors)
    return monitor


def _calibrator(
    job: Job, config: Any, phases: Phases, errors: KeptErrors, stack: ExitStack
) -> Calibrator | None:
    if job.spec.calibrator is None:
        return None
    memory = stack.enter_context(closing(open_device_memory()))
    calibrator = stack.enter_context(closing(Calibrator(job, memory, phases, errors)))
    config.int8_calibrator = handle = calibrator.handle(job.product.module)
    stack.callback(lambda: handle)  # TensorRT asks that it outlives the build
    return calibrator


def _read_back(job: Job, plan: Any, messages: Messages) -> dict[str, int]:
    """Count the built engine's layers by type: from the inspector, or else from the build log."""
    product = job.product
    if job.spec.target is None:
        runtime = create(product, "Runtime")
        if job.spec.version_compatible:
            # Such a plan brings a runtime of its own. It was built here, so it is trusted.
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(bytes(plan))
        if engine is None:
            raise BuildError(
                f"the engine that {product} built cannot be loaded: {messages.first_error()}"
            )
        if layers := layers_of_engine(product.module, engine):
            return layers
    return layers_from_report(messages.layer_report)
