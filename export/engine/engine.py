"""ONNX artifact or checkpoint → TensorRT engine, one code path over 8.6, 10, 11 and TensorRT-RTX.

API: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/ (Builder,
IBuilderConfig, OnnxParser) and the TensorRT-RTX pages beside it.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path

from calibration.calibration_file import graph_sha256
from dabnet import outputs
from dabnet.checkpoint import Given, load_checkpoint
from dabnet.console import ProgressBar
from dabnet.data.images import calibration_source
from dabnet.data.labels import LabelSet
from dabnet.data.registry import DRAWN
from dabnet.errors import BuildError, InputError
from dabnet.files import (
    existing_file,
    replacing,
    restored_on_failure,
    sha256_of_file,
    writable_target,
    write_text,
)
from dabnet.graph.facts import node_name
from dabnet.head import LOGITS
from dabnet.lock import file_held
from dabnet.models import network_named
from dabnet.runtime.manifest import EngineInfo, Manifest, engine_manifest_path
from dabnet.runtime.onnx_check import check_onnx_file
from dabnet.runtime.plan import types_of
from dabnet.runtime.trt.layers import describe, precision_fault
from dabnet.runtime.trt.product import find_product
from export.engine.builder import Built, run_builder
from export.engine.caches import PLAIN, cache_origin_path
from export.engine.limits import Card, building_card, refuse_early, refuse_precision
from export.engine.plan import convolutions_of
from export.engine.progress import OpenPhases, no_phases
from export.engine.spec import THIS_GPU, BuildSpec, ImagesOfSize, Job, Tell, profile_of
from export.onnx_export import export_onnx
from export.onnx_file import load_onnx
from export.spec import ExportSpec


def build_engine(
    onnx_path: Path,
    output: Path,
    spec: BuildSpec,
    progress: Tell | None = None,
    *,
    phases: OpenPhases = no_phases,
    images: ImagesOfSize | None = None,
    manifest: Manifest | None = None,
) -> Manifest:
    """Build ``output`` and ``output.json`` (the manifest) from an ONNX file of ``dabnet-export``.

    Its ``engine.layers_by_type`` is read back. Where the build fails nothing is written, neither
    the engine nor a cache. ``images`` are for an INT8 calibrator; ``manifest`` is of an ONNX file
    that carries none.

    Raises:
        InputError: a file cannot be read or written, or a shape or a cache does not fit.
        ArtifactError: the ONNX file carries no manifest, or one of another precision.
        BackendUnavailable: the product, the driver or the GPU is missing.
        BuildError: the parser or builder refused, or the engine is not of the precision asked for.
    """
    tell = progress or (lambda _: None)
    onnx_path = existing_file(onnx_path, "an ONNX file written by dabnet-export")
    output = _writable_engine(output, onnx_path)
    _check_caches(spec, output, onnx_path)
    with file_held(output, "dabnet-export"):
        return _build(onnx_path, output, spec, tell, phases, images, manifest)


def _build(
    onnx_path: Path,
    output: Path,
    spec: BuildSpec,
    tell: Tell,
    phases: OpenPhases,
    images: ImagesOfSize | None,
    manifest: Manifest | None,
) -> Manifest:
    model = load_onnx(onnx_path)
    manifest = manifest or check_onnx_file(onnx_path).manifest()
    refuse_precision(manifest, spec, onnx_path)
    profile = profile_of(manifest.input, manifest.example, manifest.stride, spec)
    product = find_product(spec.wanted_product)
    of_ours = not spec.calibrator and not manifest.is_described
    if of_ours and manifest.optimized_for != product.graph_target:
        told = f"{onnx_path.name} is optimised for {manifest.optimized_for}"
        tell(f"{told}; the graph for this product: --optimize-for {product.graph_target}")
    card = building_card(spec)
    refuse_early(spec, product, card.compute_capability, manifest.output.dtype)
    graph = graph_sha256(model)
    operators = {node_name(node): node.op_type for node in model.graph}
    facts = (graph, operators, convolutions_of(model))
    job = Job(onnx_path, manifest, *facts, spec, product, profile, images, tell, phases)
    built = run_builder(job)
    layers = types_of(built.kernels)
    if fault := precision_fault(spec.precision, layers):
        fix = "export the ONNX file again, or choose another precision"
        if "SM75" in spec.capabilities:
            fix = "TensorRT-RTX has no INT8 convolution for sm75: use a float precision there"
        given = f"{spec.precision} was asked for, and the builder returned another engine: {fault}"
        raise BuildError(given, fix=fix)
    tell(describe(layers))
    manifest = _manifest(job, built, card)
    if built.calibrator:
        built.calibrator.save()
    if spec.timing_cache:
        with replacing(spec.timing_cache) as temporary:
            temporary.write_bytes(built.timings)
    with restored_on_failure(engine_manifest_path(output)), replacing(output) as temporary:
        temporary.write_bytes(built.plan)
        write_text(engine_manifest_path(output), manifest.to_json())
    return manifest


def engine_from_checkpoint(
    checkpoint: Path,
    output: Path,
    spec: ExportSpec,
    build: BuildSpec,
    *,
    given: Given | None,
    data_dir: Path | None,
    progress: ProgressBar,
    tell: Tell | None = None,
    phases: OpenPhases = no_phases,
) -> Manifest:
    """Export the checkpoint to a temporary ONNX file and build its engine, by the two functions.

    The graph is the one for the product, but for a calibrator, which takes the portable one.
    """
    output = _writable_engine(output, checkpoint, *spec.files_read)
    _check_caches(build, output, checkpoint)
    # What cannot be built is refused before the minutes of an INT8 export.
    product = find_product(build.wanted_product)
    spec = replace(spec, optimize_for=PLAIN if build.calibrator else product.graph_target)
    if product.is_generation_8:
        spec = replace(spec, mask_dtype="int32")
    card = building_card(build)
    mask_dtype = "" if spec.head == LOGITS else spec.mask_dtype
    refuse_early(build, product, card.compute_capability, mask_dtype)
    stride = network_named(load_checkpoint(checkpoint, given).model).stride
    profile_of(spec.input_tensor, (spec.batch, *spec.size), stride, build)
    with file_held(output, "dabnet-export"), tempfile.TemporaryDirectory() as folder:
        onnx_path = Path(folder) / "model.onnx"
        manifest = export_onnx(
            checkpoint,
            onnx_path,
            spec,
            given=given,
            data_dir=data_dir,
            reports=output,
            progress=progress,
        )
        images = calibrator_images(build, manifest, data_dir, spec.calibration_images)
        return build_engine(onnx_path, output, build, tell, phases=phases, images=images)


def calibrator_images(
    build: BuildSpec, manifest: Manifest, data_dir: Path | None, count: int
) -> ImagesOfSize | None:
    """Training images for an INT8 calibrator; None where there is none, or its cache must do.

    ``manifest`` is of the ONNX file.
    """
    dataset, labels = (
        manifest.dataset,
        LabelSet(manifest.classes, manifest.palette, manifest.ignore),
    )
    if build.calibrator is None:
        return None
    cached = build.calibration_cache is not None and build.calibration_cache.exists()
    if cached and data_dir is None and dataset != DRAWN:
        return None
    return lambda size: calibration_source(dataset, data_dir, count, size, labels)


def _writable_engine(output: Path, *sources: Path) -> Path:
    """Check the engine and the manifest beside it as outputs."""
    writable_target(engine_manifest_path(output), *sources, kind=outputs.MANIFEST)
    return writable_target(output, *sources, kind=outputs.ENGINE)


def _check_caches(spec: BuildSpec, output: Path, source: Path) -> None:
    """Refuse at the start the caches that could not be written at the end."""
    taken = {output.resolve(): "the engine", engine_manifest_path(output).resolve(): "its manifest"}
    ranges = spec.calibration_cache
    caches = (
        ("the timing cache", spec.timing_cache, outputs.TIMINGS),
        ("the calibration cache", ranges, outputs.CALIBRATION_CACHE),
        ("the origin of it", ranges and cache_origin_path(ranges), outputs.CACHE_ORIGIN),
    )
    for name, path, kind in caches:
        if path is None:
            continue
        writable_target(path, source, kind=kind)
        if other := taken.get(path.resolve()):
            raise InputError(f"{str(path)!r} for {name} and for {other}", "two names")
        taken[path.resolve()] = name


def _manifest(job: Job, built: Built, card: Card) -> Manifest:
    spec, product = job.spec, job.product
    manifest = replace(
        job.manifest,
        onnx_sha256=sha256_of_file(job.onnx_path),
        engine=EngineInfo(
            product=product.name,
            version=product.version,
            target=spec.target or THIS_GPU,
            gpu=card.name,
            compute_capability=".".join(map(str, card.compute_capability or ())),
            driver=card.driver,
            layers_by_type=types_of(built.kernels),
            asked=job.asked,
            activation_bytes=sum(kernel.activation_bytes for kernel in built.kernels),
            constant_bytes=sum(kernel.constant_bytes for kernel in built.kernels),
            plan=built.kernels,
            profile=job.profile,
            compatibility=spec.compatibility,
            sha256=hashlib.sha256(built.plan).hexdigest(),
        ),
        libraries={**job.manifest.libraries, product.name: product.version},
    )
    if built.calibrator is None:
        return manifest
    # The ONNX file is FP32: how far it agrees with PyTorch says nothing about INT8.
    ranges = built.calibrator.info
    return replace(manifest, precision=spec.precision, calibration=ranges, agreement=None)
