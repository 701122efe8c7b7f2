"""ONNX → TensorRT engine, by one code path over TensorRT 8.6, 10, 11 and TensorRT-RTX.

API: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/ (Builder,
IBuilderConfig, OnnxParser) and the TensorRT-RTX pages beside it. What differs between versions is
asked of the module by attribute, so that no version number is compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from calibration.calibration_file import graph_sha256
from dabnet.errors import ArtifactError, BuildError, InputError
from dabnet.files import existing_file, replacing, sha256_of_file, writable_target, write_text
from dabnet.runtime.engine_layers import describe, precision_fault
from dabnet.runtime.manifest import EngineInfo, Manifest, engine_manifest_path
from dabnet.runtime.tensorrt_product import find_product
from export.build_spec import THIS_GPU, BuildSpec
from export.engine_build import Built, ImagesOfSize, Job, Tell, run_builder
from export.engine_limits import Card, building_card, dotted, refuse_early
from export.engine_profile import profile_of
from export.engine_progress import OpenPhases, no_phases
from export.onnx_file import load_onnx, manifest_of


def build_engine(
    onnx_path: Path,
    output: Path,
    spec: BuildSpec,
    progress: Tell | None = None,
    *,
    phases: OpenPhases = no_phases,
    images: ImagesOfSize | None = None,
) -> Manifest:
    """Build ``output`` and ``output.json`` (the manifest) from an ONNX file of ``dabnet-export``.

    ``progress`` is told in a few words what goes on, ``phases`` shows how far the builder is.
    ``images`` are for an INT8 calibrator. Returns the manifest that was written, whose
    ``engine.layers_by_type`` was read back. Where the build fails nothing is written, neither the
    engine nor a cache.

    Raises:
        InputError: a file cannot be read or written, or a shape or a cache does not fit.
        ArtifactError: the ONNX file carries no manifest, or one of another precision.
        BackendUnavailable: the product, the driver or the GPU is missing.
        BuildError: the parser or builder refused, or the engine is not of the precision asked for.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    tell = progress or (lambda _: None)
    onnx_path = existing_file(onnx_path, "an ONNX file written by dabnet-export")
    output = writable_target(output, onnx_path)
    _check_caches(spec, output, onnx_path)
    model = load_onnx(onnx_path)
    manifest = manifest_of(model, str(onnx_path))
    _check_precision(manifest, spec, onnx_path)
    profile = profile_of(manifest.input, manifest.example, spec)
    product = find_product(spec.wanted_product)
    card = building_card(spec)
    refuse_early(spec, product, card.compute_capability, manifest.output.dtype)
    job = Job(
        onnx_path, manifest, graph_sha256(model), spec, product, profile, images, tell, phases
    )
    built = run_builder(job)
    _require_precision(spec, built.layers)
    tell(describe(built.layers))
    manifest = _manifest(job, built, card)
    built.save_caches(spec)
    _write(output, built, manifest)
    return manifest


def _check_caches(spec: BuildSpec, output: Path, onnx_path: Path) -> None:
    """Caches are written at the end: where they cannot be is said at the start."""
    taken = {output.resolve(): "the engine", engine_manifest_path(output).resolve(): "its manifest"}
    caches = {
        "the timing cache": spec.timing_cache,
        "the calibration cache": spec.calibration_cache,
    }
    for name, path in caches.items():
        if path is None:
            continue
        writable_target(path, onnx_path)
        if other := taken.get(path.resolve()):
            raise InputError(f"{str(path)!r} for {name} and for {other}", "two names")
        taken[path.resolve()] = name


def _check_precision(manifest: Manifest, spec: BuildSpec, onnx_path: Path) -> None:
    if spec.calibrator and manifest.input.dtype != "uint8":
        raise ArtifactError(
            f"{str(onnx_path)!r} takes {manifest.input.dtype}",
            "uint8 images for an INT8 calibrator",
            "export the ONNX file again with --input uint8",
        )
    if manifest.precision == spec.onnx_precision:
        return
    if spec.calibrator:
        raise ArtifactError(
            f"{str(onnx_path)!r} is {manifest.precision}",
            "fp32 for an INT8 calibrator, which chooses the ranges itself",
            "leave --int8-calibrator out, or export with: dabnet-export onnx --precision fp32",
        )
    raise ArtifactError(
        f"{str(onnx_path)!r} is {manifest.precision}",
        f"{spec.precision}, as asked for: an engine has the precision of its ONNX file",
        f"export it again with: dabnet-export onnx --precision {spec.precision}",
    )


def _require_precision(spec: BuildSpec, layers: dict[str, int]) -> None:
    if fault := precision_fault(spec.precision, layers):
        raise BuildError(
            f"{spec.precision} was asked for, and the builder returned another engine: {fault}",
            fix="TensorRT-RTX has no INT8 convolution for sm75: use a float precision there"
            if "SM75" in spec.capabilities
            else "export the ONNX file again, or choose another precision",
        )


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
            compute_capability=dotted(card.compute_capability) if card.compute_capability else "",
            driver=card.driver,
            layers_by_type=built.layers,
            profile=job.profile,
            compatibility=spec.compatibility,
        ),
        libraries={**job.manifest.libraries, product.name: product.version},
    )
    if built.calibrator is None:
        return manifest
    # The ONNX file is FP32: how far it agrees with PyTorch says nothing about INT8.
    return replace(
        manifest,
        precision=spec.precision,
        calibration=built.calibrator.info,
        agreement=None,
    )


def _write(output: Path, built: Built, manifest: Manifest) -> None:
    """Write engine and manifest, or neither: an older pair stays as it was."""
    with _restored_on_failure(engine_manifest_path(output)), replacing(output) as temporary:
        temporary.write_bytes(built.plan)
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
