"""Checkpoint → ONNX artifact: trace → passes → INT8? → FP16? → passes → check → write.

An export of floats reads from top to bottom in this file; INT8 turns off to ``export.int8``.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import onnx_ir as ir
import torch

from dabnet import outputs
from dabnet.checkpoint import Checkpoint, Given, load_checkpoint
from dabnet.console import ProgressBar
from dabnet.data.images import images_or_scenes
from dabnet.errors import BuildError
from dabnet.files import sha256_of_file, writable_target
from dabnet.graph.editing import fold_shapes
from dabnet.graph.facts import nodes_of
from dabnet.lock import file_held
from dabnet.models import network_named
from dabnet.models.image_to_mask import ImageToMask, node_scope
from dabnet.precision import FP16, INT8
from dabnet.runtime.manifest import DYNAMIC, Manifest, PassInfo, TensorInfo
from export.agreement import required_agreement
from export.onnx_file import check_onnx, manifest_of, save_onnx, with_manifest
from export.passes.float16 import to_float16
from export.passes.float16_choice import HALF_QDQ_OPSET
from export.passes.targets import optimize
from export.spec import ExportSpec

OPSET = 17  # TensorRT 8.6 takes no later one; onnxruntime's CUDA provider lacks kernels of those

# Enough for a rough idea of the largest activations: ``to_float16`` leaves twice their range.
RANGE_IMAGES = 8


def export_onnx(
    checkpoint_path: Path,
    output: Path,
    spec: ExportSpec,
    *,
    given: Given | None = None,
    data_dir: Path | None = None,
    reports: Path | None = None,
    progress: ProgressBar,
) -> Manifest:
    """Write the ONNX artifact that ``spec`` asks for and return its manifest.

    Args:
        checkpoint_path: a checkpoint of ours or a public one.
        output: file to write; left as it was if anything fails.
        given: what the checkpoint of another trainer does not say.
        data_dir: folder of the data set: calibration images from ``train``, check images from
            ``val``. Without it the check uses toy street scenes and INT8 is refused.
        reports: the file beside which the tables of an accuracy budget go; None: ``output``.

    Raises:
        DabnetError: the checkpoint, the size or the images are unfit, or the result disagrees
            with PyTorch.
    """
    output = writable_target(output, checkpoint_path, *spec.files_read, kind=outputs.ONNX)
    if spec.has_budget:
        from export.int8.report import report_files

        report_files(reports or output)
    with file_held(output, "dabnet-export"):
        model, manifest = _exported(
            checkpoint_path, spec, given, data_dir, reports or output, progress
        )
        written = with_manifest(model, manifest)
        save_onnx(written, output)
    return manifest_of(ir.from_proto(written), str(output))


def _exported(
    checkpoint_path: Path,
    spec: ExportSpec,
    given: Given | None,
    data_dir: Path | None,
    reports: Path,
    progress: ProgressBar,
) -> tuple[ir.Model, Manifest]:
    """The artifact, checked."""
    checkpoint = load_checkpoint(checkpoint_path, given)
    network_named(checkpoint.model).check_size(*spec.size)
    sha256 = sha256_of_file(checkpoint_path)
    graph = float_graph(checkpoint, spec)  # trace → passes
    model, calibration, largest = graph.model, None, None
    if spec.precision == INT8:
        from export.int8.quantise import Int8Export  # an export of floats loads none of it

        source = (checkpoint, sha256, data_dir)
        int8 = Int8Export(graph.model, graph.logits, *source, spec, progress)
        model, ranges = int8.run(reports)
        calibration, largest = ranges.info, ranges.largest
    passes = graph.passes
    if spec.precision == FP16:
        largest = _largest_activations(model, checkpoint, data_dir, spec, progress)
    if FP16 in (spec.precision, spec.int8_rest):
        model, halved = half(model, largest)
        passes = (*passes, halved)
    model, last = optimize(
        model, spec.optimize_for, spec.precision, last=True, without=spec.without_passes
    )

    manifest = replace(
        _manifest(checkpoint, sha256, spec),
        logits=graph.logits,
        passes=passes + last,
        opset=model.opset_imports[""],
        calibration=calibration,
    )
    # The graph is checked as it will be written; only the agreement is added to its manifest.
    trial = with_manifest(model, manifest)
    check_onnx(trial)
    agreement = required_agreement(ir.from_proto(trial), checkpoint, data_dir, spec, progress)
    return model, replace(manifest, agreement=agreement)


@dataclass(frozen=True, slots=True)
class FloatGraph:
    """An FP32 graph before Q/DQ is inserted: the one that is calibrated.

    Attributes:
        model: without a manifest.
        passes: those that were applied to it.
        logits: name of its logits before the upsample.
    """

    model: ir.Model
    passes: tuple[PassInfo, ...]
    logits: str


def float_graph(checkpoint: Checkpoint, spec: ExportSpec) -> FloatGraph:
    """Trace the checkpoint's network and apply the passes that come before Q/DQ."""
    module = ImageToMask(
        checkpoint.network(),
        checkpoint.preprocessing,
        getattr(torch, spec.mask_dtype),
        float_input=spec.input == "float",
        head=spec.head,
    )
    traced = contract_graph(module.eval(), spec)
    model, passes = optimize(traced, spec.optimize_for, spec.precision, without=spec.without_passes)
    logits = coarse_logits(traced, network_named(checkpoint.model).logits)
    return FloatGraph(model, passes, logits)


def contract_graph(module: ImageToMask, spec: ExportSpec) -> ir.Model:
    """Trace the module: ``image`` uint8 (N, H, W, 3) → ``mask`` (N, H, W), opset 17.

    The head ``mask+confidence`` has a second output, ``confidence``.

    Sides that a call chooses are named ``batch``, ``height`` and ``width``. The exporter folds each
    BatchNorm that follows a convolution into its weights (evaluation mode); those before a
    convolution, behind a Concat or an Add, stay nodes of their own.
    """
    given, confidence = spec.input_tensor, spec.confidence_tensor
    results = [spec.output_tensor(classes=0), *([confidence] if confidence else [])]
    shape = replace(spec, dynamic_batch=False, dynamic_size=False).input_tensor.shape
    example = torch.zeros(shape, dtype=getattr(torch, given.dtype))
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        traced = Path(folder) / "traced.onnx"
        # The TorchScript exporter writes opset 17 itself; the newer one converts down to it,
        # takes longer and renames the weights.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (example,),
            traced,
            input_names=[given.name],
            output_names=[result.name for result in results],
            dynamic_axes={tensor.name: _free_sides(tensor) for tensor in (given, *results)},
            opset_version=OPSET,
            dynamo=False,
        )
        return fold_shapes(ir.from_proto(onnx.load(traced)))


def _free_sides(tensor: TensorInfo) -> dict[int, str]:
    """Axis → name of each side that a call chooses; the axis of channels is never one."""
    channels = None if len(tensor.shape) == 3 else 3 if tensor.dtype == "uint8" else 1
    axes = [axis for axis in range(len(tensor.shape)) if axis != channels]
    names = zip(axes, ("batch", "height", "width"), strict=True)
    return {axis: name for axis, name in names if tensor.shape[axis] == DYNAMIC}


def coarse_logits(model: ir.Model, module: str) -> str:
    """Name of the logits before the upsample, float (N, K, H/stride, W/stride).

    Args:
        model: as it was traced.
        module: the network's submodule that computes them, ``dabnet.models.Network.logits``.
    """
    within = f"{node_scope(module)}/"
    nodes = [node for node in model.graph if str(node.name).startswith(within)]
    if not nodes:
        raise BuildError(f"no node of the module {module!r} in the traced graph", "its logits")
    return str(nodes[-1].outputs[0].name)


def _largest_activations(
    model: ir.Model,
    checkpoint: Checkpoint,
    data_dir: Path | None,
    spec: ExportSpec,
    progress: ProgressBar,
) -> Mapping[str, float] | None:
    """The largest |x| of each tensor on training images; None for a graph without an image."""
    from calibration.collect import largest_activations  # an FP32 export loads none of it

    if spec.input != "uint8":
        return None
    count = min(spec.calibration_images, RANGE_IMAGES)
    source = (checkpoint.dataset, "train", data_dir, count, spec.size, checkpoint.labels)
    images = images_or_scenes(*source)
    with progress("looking for overflow", len(images)) as step:
        return largest_activations(model, ((item.name, item.image) for item in images), step)


def half(model: ir.Model, largest: Mapping[str, float] | None) -> tuple[ir.Model, PassInfo]:
    """Convert every float tensor to FP16, but for those that ``largest`` says would overflow.

    A graph with Q/DQ is brought to opset 19 first, whose scales may be FP16.
    """
    if nodes_of(model.graph, "QuantizeLinear"):
        proto = onnx.version_converter.convert_version(ir.to_proto(model), HALF_QDQ_OPSET)
        model = ir.from_proto(proto)
    model, lines = to_float16(model, largest=largest)
    halves = sum(
        any(value.dtype == ir.DataType.FLOAT16 for value in node.outputs) for node in model.graph
    )
    return model, PassInfo("float16", halves, lines[0])


def _manifest(checkpoint: Checkpoint, checkpoint_sha256: str, spec: ExportSpec) -> Manifest:
    """The part of the manifest that is known before the graph is made."""
    libraries = ("torch", "onnx", "onnx-ir", "numpy")
    return Manifest(
        model=checkpoint.model,
        dataset=checkpoint.dataset,
        classes=checkpoint.labels.classes,
        palette=checkpoint.labels.palette,
        ignore=checkpoint.labels.ignore,
        preprocessing=checkpoint.preprocessing,
        input=spec.input_tensor,
        output=spec.output_tensor(len(checkpoint.labels.classes)),
        precision=spec.precision,
        example=(spec.batch, *spec.size),
        checkpoint_sha256=checkpoint_sha256,
        trained_on=checkpoint.trained_on,
        confidence=spec.confidence_tensor,
        stride=network_named(checkpoint.model).stride,
        optimized_for=spec.optimize_for,
        libraries={name: importlib.metadata.version(name) for name in libraries},
    )
