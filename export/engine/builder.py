"""One run of the builder: parse, configure, build, read the types of the layers back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dabnet.data.images import ImageSource
from dabnet.errors import BuildError
from dabnet.runtime.cuda import open_device_memory
from dabnet.runtime.manifest import Manifest
from dabnet.runtime.trt.layers import layers_from_report, layers_of_engine
from dabnet.runtime.trt.product import Messages, Product, create, logger_of
from export.engine.caches import attach_timing_cache, save_timing_cache
from export.engine.calibrator import CalibrationCache, Calibrator
from export.engine.config import add_profile, configure, network_flags
from export.engine.limits import refuse_slow
from export.engine.profile import Profile
from export.engine.progress import (
    Interrupt,
    KeptErrors,
    OpenPhases,
    Phases,
    interruptible,
    monitor_handle,
)
from export.engine.spec import BuildSpec

Tell = Callable[[str], None]
ImagesOfSize = Callable[[tuple[int, int]], ImageSource]
"""(height, width) → training images of that size, for an INT8 calibrator."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is built from what, with what, and who is told.

    Attributes:
        onnx_path, manifest: the ONNX file and the manifest inside it.
        graph_sha256: of its graph, to which a calibration cache belongs.
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

    @property
    def name(self) -> str:
        """Such as ``tensorrt 10.16.1.11``."""
        return f"{self.product.name} {self.product.version}"


@dataclass(frozen=True, slots=True)
class Built:
    """A serialised engine.

    Attributes:
        plan: a buffer of its bytes.
        layers: how many layers compute in which type, as TensorRT reports it.
        calibrator: the calibration it took its ranges from, if it had one.
        config: the builder's configuration, which holds the timings.
    """

    plan: Any
    layers: dict[str, int]
    calibrator: Calibrator | None
    config: Any

    def save_caches(self, spec: BuildSpec) -> None:
        """Write what the next build can use again."""
        if self.calibrator:
            self.calibrator.save()
        if spec.timing_cache:
            save_timing_cache(self.config, spec.timing_cache)


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
        tell(f"{job.name} reads {job.onnx_path.name}")
        builder = create(product, "Builder")
        refuse_slow(builder, spec, product)
        network = builder.create_network(network_flags(product, spec))
        _parse(job, network)
        config = builder.create_builder_config()
        configure(product, config, spec)
        if job.profile:
            tensor = job.manifest.input.name
            add_profile(product, builder, config, tensor, job.profile, bool(spec.calibrator))
        if spec.timing_cache:
            attach_timing_cache(product, config, spec.timing_cache, tell)
        tell(f"builds {spec.precision} for {spec.target or 'this GPU'}")
        with interruptible(tell) as interrupt, job.phases() as phases:
            monitor = _monitor(job, config, phases, interrupt, errors)
            calibrator = _calibrator(job, config, phases, errors, stack)
            plan = builder.build_serialized_network(network, config)
        del monitor  # TensorRT asks that it outlives the build
        errors.reraise()
        if plan is None:
            raise BuildError(
                f"{job.name} built no engine: {messages.first_error()}",
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
        f"{job.name} cannot parse {str(job.onnx_path)!r}: {reason}",
        fix="export it again with this version of dabnet-export",
    )


def _monitor(
    job: Job, config: Any, phases: Phases, interrupt: Interrupt, errors: KeptErrors
) -> Any:
    module = job.product.module
    if not hasattr(module, "IProgressMonitor"):
        job.tell(f"{job.name} does not say how far it is, and cannot be stopped half-way")
        return None
    config.progress_monitor = monitor = monitor_handle(module, phases, interrupt, errors)
    return monitor


def _calibrator(
    job: Job, config: Any, phases: Phases, errors: KeptErrors, stack: ExitStack
) -> Calibrator | None:
    spec = job.spec
    if spec.calibrator is None:
        return None
    shape = job.profile[1] if job.profile else job.manifest.input.shape
    memory = stack.enter_context(closing(open_device_memory()))
    calibrator = Calibrator(
        spec.calibrator,
        memory,
        shape,
        job.images((shape[1], shape[2])) if job.images else None,
        CalibrationCache(spec.calibration_cache, job.graph_sha256)
        if spec.calibration_cache
        else None,
        phases,
        errors,
        job.manifest.dataset,
    )
    stack.enter_context(closing(calibrator))
    handle = calibrator.handle(job.product.module)
    stack.callback(lambda: handle)  # TensorRT asks that it outlives the build
    config.int8_calibrator = handle
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
                f"the engine that {job.name} built cannot be loaded: {messages.first_error()}"
            )
        if layers := layers_of_engine(product.module, engine):
            return layers
    return layers_from_report(messages.layer_report)
