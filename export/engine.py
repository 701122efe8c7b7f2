"""ONNX → TensorRT engine, by one code path over TensorRT 8.6, 10, 11 and TensorRT-RTX.

API: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/ (Builder,
IBuilderConfig, OnnxParser) and the TensorRT-RTX pages beside it. What differs between versions is
asked of the module by attribute, so that no version number is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dabnet.errors import ArtifactError, BuildError
from dabnet.files import existing_file, replacing, sha256_of_file, writable_target, write_text
from dabnet.runtime.device_memory import open_device_memory
from dabnet.runtime.engine_layers import (
    describe,
    layers_from_report,
    layers_of_engine,
    precision_fault,
)
from dabnet.runtime.manifest import EngineInfo, Manifest, engine_manifest_path
from dabnet.runtime.tensorrt_product import (
    PASCAL_STACK,
    Messages,
    Product,
    create,
    find_product,
    logger_of,
)
from export.build_spec import THIS_GPU, BuildSpec
from export.onnx_file import load_onnx, manifest_of

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Card:
    """The GPU that builds; all empty for an ahead-of-time build."""

    name: str = ""
    compute_capability: tuple[int, int] | None = None
    driver: str = ""


def build_engine(
    onnx_path: Path, output: Path, spec: BuildSpec, progress: Progress | None = None
) -> Manifest:
    """Build ``output`` and ``output.json`` (the manifest) from an ONNX file of ``dabnet-export``.

    ``progress`` is told in a few words what goes on. Returns the manifest that was written, whose
    ``engine.layers_by_type`` was read back. Where the build fails nothing is written.

    Raises:
        ArtifactError: the ONNX file carries no manifest, or one of another precision.
        BackendUnavailable: the product, the driver or the GPU is missing.
        BuildError: the parser or builder refused, or the engine is not of the precision asked for.
    """
    tell = progress or (lambda _: None)
    onnx_path = existing_file(onnx_path, "an ONNX file written by dabnet-export")
    output = writable_target(output, onnx_path)
    manifest = manifest_of(load_onnx(onnx_path), str(onnx_path))
    _check_precision(manifest, spec, onnx_path)
    product = find_product(spec.wanted_product)
    card = _Card() if spec.target else _card_of_this_machine()
    refuse_early(spec, product, card.compute_capability, manifest.output.dtype)
    with logger_of(product).collect() as messages:
        tell(f"{product.name} {product.version} reads {onnx_path.name}")
        plan = _build_plan(product, onnx_path, spec, messages, tell)
        layers = _read_back(product, plan, spec, messages)
    if fault := precision_fault(spec.precision, layers):
        raise BuildError(
            f"{spec.precision} was asked for, and the builder returned another engine: {fault}",
            fix="TensorRT-RTX has no INT8 convolution for sm75: use a float precision there"
            if "SM75" in spec.capabilities
            else "export the ONNX file again, or choose another precision",
        )
    tell(describe(layers))
    manifest = replace(
        manifest,
        onnx_sha256=sha256_of_file(onnx_path),
        engine=_engine_info(product, spec, card, layers),
        libraries={**manifest.libraries, product.name: product.version},
    )
    _write(output, plan, manifest)
    return manifest


def refuse_early(
    spec: BuildSpec,
    product: Product,
    compute_capability: tuple[int, int] | None = None,
    mask_dtype: str = "",
) -> None:
    """Raise BuildError for what is known to fail, or to be useless, after minutes of building.

    Args:
        spec, product: what is to be built, with what.
        compute_capability: of this machine's GPU; None for an ahead-of-time build.
        mask_dtype: numpy dtype name of the ONNX file's output; "" if unknown.
    """
    if spec.target and not product.builds_ahead_of_time:
        raise BuildError(
            f"{product.name} {product.version} cannot build for {spec.target}",
            "TensorRT-RTX for a --target",
            "pip install '.[rtx]'",
        )
    if compute_capability and compute_capability < (7, 0) and not product.is_generation_8:
        raise BuildError(
            f"{product.name} {product.version} does not run on this GPU (compute capability "
            f"{_dotted(compute_capability)})",
            "TensorRT 8.6, the last for Pascal",
            f"install its stack: {PASCAL_STACK}",
        )
    if compute_capability == (6, 1) and spec.precision == "fp16":
        raise BuildError(
            "fp16 on compute capability 6.1, whose FP16 arithmetic runs at 1/64 of FP32",
            "fp32 or int8 on this GPU",
            "export one of these",
        )
    if product.is_generation_8 and mask_dtype == "uint8":
        raise BuildError(
            f"a uint8 mask with {product.name} {product.version}, which cannot emit uint8",
            "an int32 mask",
            "export the ONNX file again with --mask-dtype int32",
        )


def _check_precision(manifest: Manifest, spec: BuildSpec, onnx_path: Path) -> None:
    if manifest.precision != spec.precision:
        raise ArtifactError(
            f"{str(onnx_path)!r} is {manifest.precision}",
            f"{spec.precision}, as asked for: an engine has the precision of its ONNX file",
            f"export it again with: dabnet-export onnx --precision {spec.precision}",
        )


def _card_of_this_machine() -> _Card:
    memory = open_device_memory()
    try:
        return _Card(memory.name, memory.compute_capability, memory.driver)
    finally:
        memory.close()


def _build_plan(
    product: Product, onnx_path: Path, spec: BuildSpec, messages: Messages, tell: Progress
) -> Any:
    """Parse and build; return the serialised engine (a buffer)."""
    trt = product.module
    builder = create(product, "Builder")
    network = builder.create_network(_network_flags(trt))
    _parse(product, network, onnx_path)
    config = builder.create_builder_config()
    _configure(product, config, spec)
    tell(f"builds {spec.precision} for {spec.target or 'this GPU'}")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(
            f"{product.name} {product.version} built no engine: {messages.first_error()}",
            fix="raise --workspace-mib" if spec.workspace_mib else "",
        )
    return plan


def _network_flags(trt: Any) -> int:
    """Strongly typed where that exists: the ONNX file's types are then the engine's types.

    TensorRT 8.6 has it not, and needs EXPLICIT_BATCH for ONNX, which later versions always have.
    """
    flags = trt.NetworkDefinitionCreationFlag
    chosen = flags.STRONGLY_TYPED if hasattr(flags, "STRONGLY_TYPED") else flags.EXPLICIT_BATCH
    return 1 << int(chosen)


def _parse(product: Product, network: Any, onnx_path: Path) -> None:
    parser = product.module.OnnxParser(network, logger_of(product).handle)
    if parser.parse(onnx_path.read_bytes()):
        return
    text = parser.get_error(0).desc() if parser.num_errors else "it gave no reason"
    # What follows in the text on a machine without a driver is TensorRT's complaint about that.
    reason = text.split("\n[checkMacros")[0]
    raise BuildError(
        f"{product.name} {product.version} cannot parse {str(onnx_path)!r}: {reason}",
        fix="export it again with this version of dabnet-export",
    )


def _configure(product: Product, config: Any, spec: BuildSpec) -> None:
    trt = product.module
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or no types can be read back
    if spec.workspace_mib:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, spec.workspace_mib << 20)
    # TF32 is on by default, and its mantissa has 10 bits: FP32 must mean FP32.
    if spec.precision == "fp32" and hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    # A strongly typed network takes no precision flags (it is an error in TensorRT 10).
    strongly_typed = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    if not strongly_typed and spec.precision in ("fp16", "int8"):
        config.set_flag(getattr(trt.BuilderFlag, spec.precision.upper()))
    if product.builds_ahead_of_time:
        _set_targets(product, config, spec.capabilities or ("CURRENT",))


def _set_targets(product: Product, config: Any, names: tuple[str, ...]) -> None:
    """TensorRT-RTX: without a target it would build a portable engine, also where there is a GPU.

    Source: ``IBuilderConfig.set_compute_capability`` and ``num_compute_capabilities``.
    """
    known = product.module.ComputeCapability
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        if not hasattr(known, name) or not config.set_compute_capability(
            getattr(known, name), index
        ):
            targets = [n.lower() for n in dir(known) if n.startswith("SM") and n[2:].isdigit()]
            raise BuildError(
                f"{product.name} {product.version} takes no target {name.lower()}",
                f"one of {', '.join(targets)}",
            )


def _read_back(product: Product, plan: Any, spec: BuildSpec, messages: Messages) -> dict[str, int]:
    """Count the built engine's layers by type: from the inspector, or else from the build log."""
    if spec.target is None:
        engine = create(product, "Runtime").deserialize_cuda_engine(bytes(plan))
        if engine is None:
            raise BuildError(
                f"the engine that {product.name} {product.version} built cannot be loaded: "
                f"{messages.first_error()}"
            )
        if layers := layers_of_engine(product.module, engine):
            return layers
    return layers_from_report(messages.layer_report)


def _engine_info(
    product: Product, spec: BuildSpec, card: _Card, layers: dict[str, int]
) -> EngineInfo:
    return EngineInfo(
        product=product.name,
        version=product.version,
        target=spec.target or THIS_GPU,
        gpu=card.name,
        compute_capability=_dotted(card.compute_capability) if card.compute_capability else "",
        driver=card.driver,
        layers_by_type=layers,
    )


def _dotted(compute_capability: tuple[int, int]) -> str:
    return f"{compute_capability[0]}.{compute_capability[1]}"


def _write(output: Path, plan: Any, manifest: Manifest) -> None:
    """Write engine and manifest, or neither: an older pair stays as it was."""
    with _restored_on_failure(engine_manifest_path(output)), replacing(output) as temporary:
        temporary.write_bytes(plan)
        write_text(engine_manifest_path(output), manifest.to_json())


@contextmanager
def _restored_on_failure(path: Path) -> Iterator[None]:
    before = path.read_bytes() if path.exists() else None
    try:
        yield
    except BaseException:
        if before is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(before)
        raise
