"""One run of the builder: parse, configure, build, read the types of the layers back.

API: ``NetworkDefinitionCreationFlag``, ``IBuilderConfig``. Names are asked of the module, and no
version number is compared; the integers behind them shift between versions.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

from dabnet.errors import BuildError
from dabnet.precision import FP32, PRECISIONS
from dabnet.runtime.cuda import DeviceMemory, open_device_memory
from dabnet.runtime.plan import Plan
from dabnet.runtime.trt.layers import plan_of_engine, plan_of_report
from dabnet.runtime.trt.product import Messages, Product, create, logger_of
from export.engine.caches import attach_timing_cache, timings_of
from export.engine.calibrator import Calibrator
from export.engine.limits import refuse_slow
from export.engine.progress import KeptErrors, interruptible, monitor_handle
from export.engine.spec import BuildSpec, Job
from export.spec import DENSE_ONLY


@dataclass(frozen=True, slots=True)
class Built:
    """A serialised engine."""

    plan: bytes
    kernels: Plan  # as TensorRT reports them
    calibrator: Calibrator | None
    timings: bytes  # of kernels, if a timing cache was asked for


def run_builder(job: Job) -> Built:
    """Build the engine in memory.

    Raises:
        BuildError: the parser or the builder refused.
        KeyboardInterrupt: Ctrl-C was pressed; the builder was asked to stop where it can be.
    """
    if job.spec.target is not None:
        return _built(job, None)
    with closing(open_device_memory(job.spec.device)) as memory, memory.active():
        return _built(job, memory)  # all that TensorRT made is gone before the GPU is given back


def _built(job: Job, memory: DeviceMemory | None) -> Built:
    spec, product, tell = job.spec, job.product, job.tell
    trt, errors, calibrator = product.module, KeptErrors(), None
    # Strongly typed where that exists: the ONNX file's types are then the engine's. A calibrator
    # chooses types itself. TensorRT 8.6 needs EXPLICIT_BATCH for ONNX, later ones always have it.
    typed = product.is_strongly_typed and not spec.calibrator
    flags = trt.NetworkDefinitionCreationFlag
    alive: list[Any] = []  # TensorRT asks that these objects outlive the build
    with ExitStack() as stack:
        messages = stack.enter_context(logger_of(product).collect())
        tell(f"{product} reads {job.onnx_path.name}")
        builder = create(product, "Builder")
        refuse_slow(builder, spec, product)
        network = builder.create_network(
            1 << int(flags.STRONGLY_TYPED if typed else flags.EXPLICIT_BATCH)
        )
        _parse(job, network)
        config = builder.create_builder_config()
        _configure(product, config, spec, typed)
        if job.profile:
            _add_profile(job, builder, config)
        if spec.timing_cache:
            attach_timing_cache(product, config, spec.timing_cache, tell)
        tell(f"builds {spec.precision} for {spec.target or 'this GPU'}")
        with interruptible(tell) as stop, job.phases() as phases:
            if hasattr(trt, "IProgressMonitor"):
                alive.append(monitor_handle(trt, phases, stop, errors))
                config.progress_monitor = alive[-1]
            else:
                tell(f"{product} does not report its progress, and cannot be stopped half-way")
            if spec.calibrator and memory:
                calibrator = stack.enter_context(closing(Calibrator(job, memory, phases, errors)))
                alive.append(calibrator.handle(trt))
                config.int8_calibrator = alive[-1]
            plan = builder.build_serialized_network(network, config)
        errors.reraise()
        if plan is None:
            fix = "raise --workspace-mib" if spec.workspace_mib else ""
            # In places TensorRT 8.6 has no INT8 kernel for a depthwise convolution.
            ranges = job.manifest.calibration
            if product.is_generation_8 and ranges and ranges.placement not in ("", DENSE_ONLY):
                fix = f"export the ONNX file again with --placement {DENSE_ONLY}"
            raise BuildError(f"{product} built no engine: {messages.first_error()}", fix=fix)
        timings = timings_of(config) if spec.timing_cache else b""
        return Built(bytes(plan), _read_back(job, plan, messages), calibrator, timings)


def _parse(job: Job, network: Any) -> None:
    parser = job.product.module.OnnxParser(network, logger_of(job.product).handle)
    # The path is where weights lie that are in another file.
    if parser.parse(job.onnx_path.read_bytes(), str(job.onnx_path)):
        return
    text = parser.get_error(0).desc() if parser.num_errors else "it gave no reason"
    # What follows in the text on a machine without a driver is TensorRT's complaint about that.
    reason = text.split("\n[checkMacros")[0]
    fix = "export it again with this version of dabnet-export"
    raise BuildError(f"{job.product} cannot parse {str(job.onnx_path)!r}: {reason}", fix=fix)


def _configure(product: Product, config: Any, spec: BuildSpec, typed: bool) -> None:
    trt = product.module
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or no types can be read back
    if spec.workspace_mib:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, spec.workspace_mib << 20)
    # TF32 is on by default, and its mantissa has 10 bits: what is float32 beside FP16 or INT8 must
    # be float32, too.
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    if not typed and spec.precision != FP32:  # precision flags are an error for a typed network
        config.set_flag(getattr(trt.BuilderFlag, PRECISIONS[spec.precision].flag))
    if spec.hardware_compatible:
        level = spec.hardware_compatible.upper().replace("-", "_")
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if spec.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if not product.builds_ahead_of_time:
        return
    # Without a target TensorRT-RTX builds a portable engine, even where there is a GPU.
    names = spec.capabilities or ("CURRENT",)
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        if not config.set_compute_capability(getattr(trt.ComputeCapability, name), index):
            known = f"one of {', '.join(product.targets)}"
            raise BuildError(f"{product} refused the target {name.lower()}", known)


def _add_profile(job: Job, builder: Any, config: Any) -> None:
    """Add the range of shapes of the input; calibration uses its best shape."""
    shapes = builder.create_optimization_profile()
    shapes.set_shape(job.manifest.input.name, *job.profile)
    index = config.add_optimization_profile(shapes)
    if index < 0 or (job.spec.calibrator and not config.set_calibration_profile(shapes)):
        fix = "pass other --min-shape, --opt-shape and --max-shape"
        raise BuildError(f"{job.product} refused the input shapes {job.profile}", fix=fix)
    # Only TensorRT 8.6 needs to be asked to let several contexts use the one profile, as CUDA
    # graphs and profilers do (``PreviewFeature.PROFILE_SHARING_0806``; later on by default).
    if job.product.is_generation_8:
        config.set_preview_feature(job.product.module.PreviewFeature.PROFILE_SHARING_0806, True)


def _read_back(job: Job, plan: Any, messages: Messages) -> Plan:
    """The kernels of the built engine: from the inspector, or else from the build log."""
    product, operators = job.product, job.operators
    if job.spec.target is None:
        runtime = create(product, "Runtime")
        if job.spec.version_compatible:
            # Such a plan brings a runtime of its own. It was built here, so it is trusted.
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(bytes(plan))
        if engine is None:
            fault = messages.first_error()
            raise BuildError(f"the engine that {product} built cannot be loaded: {fault}")
        if kernels := plan_of_engine(product.module, engine, operators):
            return kernels
    return plan_of_report(messages.layer_report, operators)
