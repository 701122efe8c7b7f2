"""``dabnet-export``: parse, export, print."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dabnet import __version__
from dabnet.command_help import Group
from dabnet.console import (
    CONTEXT,
    FILE,
    Size,
    device_option,
    progress_bar,
    refuse_typed,
    run,
    say,
    trust_option,
)
from dabnet.errors import InputError
from dabnet.given_options import GIVEN, OF_CHECKPOINTS, description_of, given_of, source_options
from dabnet.precision import EXPORTED, FP32, INT8
from export.cli.calibration import calibration_command
from export.cli.options import building_gpu, data_option, output_option, request_options
from export.cli.verify import verify_command
from export.engine.spec import BuildSpec
from export.spec import ExportSpec, options_of

if TYPE_CHECKING:
    from dabnet.given import Given
    from dabnet.runtime.manifest import Agreement, Manifest

LOW_MIOU = 0.15
"""Below it a network has not learned these classes, or sees other images than in its training."""


@click.group(cls=Group, context_settings=CONTEXT, no_args_is_help=False)
@click.version_option(__version__)
def export_group() -> None:
    """Turn a checkpoint into an artifact: uint8 image in, class mask out."""


@export_group.command("onnx", context_settings=CONTEXT)
@click.argument("checkpoint", type=FILE)
@output_option
@data_option
@request_options(ExportSpec)
@source_options
def onnx_command(checkpoint: Path, output: Path, data_dir: Path | None, **values: Any) -> None:
    """Write CHECKPOINT as one ONNX file, its manifest inside.

    The file is compared with PyTorch on real images before it is written.
    """
    from export.onnx_export import export_onnx

    given = given_of(values)
    manifest = export_onnx(
        checkpoint,
        output,
        ExportSpec(**values),
        given=given,
        data_dir=data_dir,
        progress=progress_bar,
    )
    _print_manifest(manifest, output, given)


@export_group.command("trt", context_settings=CONTEXT)
@click.argument("source", metavar="CHECKPOINT_OR_ONNX", type=FILE)
@output_option
@data_option
@click.option(
    "--size", type=Size(), help="Of the images.", show_default="512x1024, or the ONNX file's"
)
@click.option("--precision", type=click.Choice(EXPORTED), show_default="fp32, or the ONNX file's")
@device_option("the first GPU")
@request_options(BuildSpec)
@click.option(
    "--print-trtexec", is_flag=True, help="Print the equal line of trtexec, and build nothing."
)
@request_options(ExportSpec, without=("size", "precision", "optimize_for"))
@source_options
def trt_command(
    source: Path,
    output: Path,
    size: tuple[int, int] | None,
    precision: str | None,
    device: str,
    print_trtexec: bool,
    **values: Any,
) -> None:
    """Build a TensorRT engine, its manifest beside it.

    An ONNX file of another tool is described with --dataset or --classes.
    """
    from dabnet.artifact import CHECKPOINT, ONNX, Artifact
    from export.engine.trtexec import trtexec_line

    given = given_of(values)
    of_ours = Artifact.open(source).kind == CHECKPOINT
    artifact = Artifact.open(source, None if of_ours else description_of(size, given))
    carried = artifact.manifest if artifact.kind == ONNX else None
    if precision is None:
        found = carried.precision if carried else FP32
        precision = INT8 if values["calibrator"] else found
    asked = {name: values.pop(name) for name in options_of(BuildSpec)}
    build = BuildSpec(precision, device=building_gpu(device, asked["target"]), **asked)
    if carried:
        _refuse_for_onnx(source, carried, size, build, values)
    if print_trtexec:
        if carried is None:
            fix = f"export it first with: dabnet-export onnx {source} --optimize-for tensorrt"
            raise InputError(f"--print-trtexec for {str(source)!r}", "an ONNX file", fix)
        line, notes = trtexec_line(source, output, carried, build)
        say(line)
        for note in notes:
            _tell(note)
    elif carried:
        _print_manifest(_built(source, output, carried, build, values), output)
    else:
        manifest = _exported_and_built(source, output, size, build, given, values)
        _print_manifest(manifest, output, given)


def _refuse_for_onnx(
    source: Path,
    carried: Manifest,
    size: tuple[int, int] | None,
    build: BuildSpec,
    values: dict[str, Any],
) -> None:
    """Raise InputError for what only the export of a checkpoint reads, and for another size."""
    used = ["calibration_images", "data_dir"] if build.calibrator else []
    if carried.is_described:
        used += [name for name in GIVEN if name not in OF_CHECKPOINTS]
    else:
        described, expected = ("classes", "mean", "scale"), "a file without a manifest"
        refuse_typed(described, repr(str(source)), expected, "leave them out")
    refuse_typed(
        [name for name in (*GIVEN, *values) if name not in used],
        f"the ONNX file {str(source)!r}",
        "a checkpoint, which is exported with them",
        "leave them out, or export the ONNX file again with: dabnet-export onnx",
    )
    if size and size != carried.size:
        expected = f"{carried.size[0]}x{carried.size[1]}, the size of {str(source)!r}"
        fix = "leave --size out, or export another ONNX file"
        raise InputError(f"--size {size[0]}x{size[1]}", expected, fix)


def _built(
    source: Path, output: Path, carried: Manifest, build: BuildSpec, values: dict[str, Any]
) -> Manifest:
    from export.engine.engine import build_engine, calibrator_images
    from export.engine.progress import phase_bars

    count = values["calibration_images"]
    images = calibrator_images(build, carried, values["data_dir"], count)
    given = carried if carried.is_described else None
    return build_engine(
        source, output, build, _tell, phases=phase_bars, images=images, manifest=given
    )


def _exported_and_built(
    source: Path,
    output: Path,
    size: tuple[int, int] | None,
    build: BuildSpec,
    given: Given,
    values: dict[str, Any],
) -> Manifest:
    from export.engine.engine import engine_from_checkpoint
    from export.engine.progress import phase_bars

    data_dir = values.pop("data_dir")
    return engine_from_checkpoint(
        source,
        output,
        ExportSpec(size=size or (512, 1024), precision=build.onnx_precision, **values),
        build,
        given=given,
        data_dir=data_dir,
        progress=progress_bar,
        tell=_tell,
        phases=phase_bars,
    )


@export_group.command("inspect", context_settings=CONTEXT)
@click.argument("file", metavar="FILE", type=FILE)
@click.option("--layers", is_flag=True, help="Every layer; of a calibration, every range.")
@click.option("--plan", is_flag=True, help="Kernels, memory traffic and types of the engine.")
@click.option("--target", help="GPU of an ONNX file's plan.", show_default="sm86")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON instead.")
@source_options
def inspect_command(
    file: Path,
    layers: bool,
    plan: bool,
    target: str | None,
    trust: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Describe FILE, and in which type its layers compute.

    It is a checkpoint, an ONNX file of any tool, an engine or a calibration. --plan of an ONNX
    file builds it with TensorRT-RTX, without a GPU.
    """
    from dabnet.tables import terminal
    from export.inspection import inspect_file, print_inspection

    if target and not plan:
        raise InputError(f"--target {target} without --plan", "--plan with it")
    found = inspect_file(file, given_of(values), plan=plan, target=target, trust=trust)
    if found.kind != "checkpoint":
        refuse_typed(GIVEN, f"the {found.kind} {str(file)!r}", "a checkpoint", "leave them out")
    if as_json:
        values = dataclasses.asdict(found)
        say(json.dumps(values, indent=2, allow_nan=False))  # any terminal prints it
    else:
        print_inspection(terminal(), found, layers)


export_group.add_command(calibration_command)
export_group.add_command(verify_command)


def _tell(what: str) -> None:
    say(f"  {what}", err=True)


def _print_manifest(manifest: Manifest, output: Path, given: Given | None = None) -> None:
    height, width = manifest.size
    batch = manifest.input.shape[0] if manifest.input.shape[0] > 0 else "any"
    say(f"{output}  ({output.stat().st_size / 1e6:.1f} MB)")
    say(
        f"  {manifest.model} on {manifest.dataset}, {manifest.precision}, {height}x{width},"
        f" batch {batch}, opset {manifest.opset}"
    )
    if given and given.void:
        classes = len(manifest.classes)
        say(f"  {given.void} of {classes + 1} outputs dropped: it stands for no class")
    for applied in manifest.passes:
        note = f" ({applied.note})" if applied.note else ""
        say(f"  {applied.name} for {manifest.optimized_for}: {applied.changed}{note}")
    if source := manifest.calibration:
        say(
            f"  ranges: {source.method} of {source.images} images of"
            f" {source.dataset} {source.split}"
            + (f", on {source.placement}" if source.placement else "")
        )
        if source.float_layers:
            say(f"  left in float: {', '.join(source.float_layers)}")
    if agreement := manifest.agreement:
        # An engine built ahead of time cannot run here: what was compared is its ONNX file.
        subject = "its ONNX file agrees" if manifest.engine else "agrees"
        say(
            f"  {subject} with PyTorch FP32 on {100 * agreement.mean:.3f} % of pixels"
            f" (worst image {100 * agreement.worst:.3f} %; {agreement.images})"
        )
        if difference := agreement.confidence:
            say(f"  confidence{' of its ONNX file' if manifest.engine else ''} {difference}")
        _print_miou(agreement, "its ONNX file" if manifest.engine else "artifact", given)
    if engine := manifest.engine:
        layers = ", ".join(f"{n} {kind}" for kind, n in sorted(engine.layers_by_type.items()))
        say(f"  {engine.product} {engine.version} for {engine.target}; layers: {layers}")
        if engine.activation_bytes and not manifest.is_dynamic:
            moved = f"{engine.activation_bytes / 1e6:.1f} MB of activations"
            say(f"  {len(engine.plan)} kernels, {moved}")
        if engine.profile:
            shapes = ["x".join(map(str, shape)) for shape in engine.profile]
            say("  input shapes from {} to {}, best at {}".format(*shapes[::2], shapes[1]))


def _print_miou(agreement: Agreement, subject: str, given: Given | None) -> None:
    """Print the accuracy on the labels of the check images, if they have any."""
    scores = agreement.checkpoint_miou, agreement.artifact_miou
    if scores[0] is None or scores[1] is None:
        return
    checkpoint, artifact = (f"{100 * score:.1f} %" for score in scores if score is not None)
    said = f"mIoU on {agreement.images}: checkpoint {checkpoint}, {subject} {artifact}"
    say(f"  {said}")
    if scores[0] < LOW_MIOU and given and any(given.named()):
        say("  so low an mIoU is often a wrong --mean, --scale, --dilations or --classes")


def main() -> None:
    """Entry point of ``dabnet-export``."""
    # Parsers and builders of TensorRT, OpenVINO and ONNX Runtime are code that a file may crash.
    run(export_group, apart=True)
