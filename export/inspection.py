"""Description of a file without running it: checkpoint, ONNX file, engine or calibration."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
from rich.console import Console

from calibration.calibration_file import is_calibration, load_calibration
from calibration.ranges import METHODS
from dabnet.artifact import CHECKPOINT, ENGINE, ONNX, Artifact
from dabnet.errors import ArtifactError, BackendUnavailable, InputError
from dabnet.files import sha256_of_file
from dabnet.given import Given
from dabnet.graph.facts import inferred, layers_of
from dabnet.precision import FP32, PRECISIONS
from dabnet.runtime.manifest import (
    ChangedSince,
    NoManifest,
    read_engine_manifest,
    refuse_untrusted,
)
from dabnet.runtime.onnx_check import check_onnx_file
from dabnet.runtime.plan import PlanTensor
from dabnet.runtime.trt.foreign import EngineFacts, read_engine
from dabnet.runtime.trt.product import find_product
from dabnet.tables import line, row, table
from export.cards import CARDS
from export.engine.plan import PlanSummary, plan_of_onnx, summary
from export.onnx_file import load_onnx

# TensorRT's names of types, as an artifact's precision is written.
_PRECISIONS = {precision.tensorrt: precision.name for precision in PRECISIONS.values()}

_CHANGED = (
    "CHANGED after its export: the graph is not that of the manifest, whose precision, passes and"
    " agreement are those of the file as it was exported"
)

LARGEST = 10  # kernels that are listed
_DIGITS = 12  # of a hash in the terminal
_LONG = ("palette", "image_sha256", "recipe", "plan")  # in the JSON alone


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything that ``inspect`` prints; its JSON has these keys (docs/verify_inspect.md).

    ``inputs`` and ``outputs`` hold name, dtype and shape of each tensor, of a checkpoint those of
    its network. A side that may change is its name, "?" or -1. ``layers`` hold name, operator and
    precision of those with weights; of an engine of all, () where it cannot be read here.
    """

    file: str
    kind: str  # ``checkpoint``, ``onnx``, ``engine`` or ``calibration``
    bytes: int
    sha256: str
    manifest: dict[str, Any] | None = None  # None for an ONNX file or an engine of another tool
    inputs: tuple[dict[str, Any], ...] = ()
    outputs: tuple[dict[str, Any], ...] = ()
    precisions: dict[str, int] = field(default_factory=dict)  # number of layers by type
    layers: tuple[dict[str, str], ...] = ()
    ranges: dict[str, dict[str, float]] = field(default_factory=dict)  # of a calibration's tensors
    notes: tuple[str, ...] = ()
    plan: PlanSummary | None = None
    format: int = 2


def inspect_file(
    path: Path,
    given: Given | None = None,
    *,
    plan: bool = False,
    target: str | None = None,
    trust: bool = False,
) -> Inspection:
    """Read what ``path`` is. Only an engine of another tool needs TensorRT and a GPU for that.

    Args:
        path: the file.
        given: what the checkpoint of another trainer does not say.
        plan: whether to describe the plan: of an engine the one in its manifest, of an ONNX file
            the one that TensorRT-RTX makes for ``target``, for which it is built (``sm86``).
        target: a compute capability such as ``sm86``; None for an engine.
        trust: whether an engine is loaded also without a manifest that has its hash.

    Raises:
        DabnetError: no such file, or it is damaged; it has no plan.
    """
    kind = "calibration" if is_calibration(path) else Artifact.open(path).kind
    described = _plan(path, kind, target, trust) if plan else None
    if kind == "calibration":
        facts = _calibration(path)
    elif kind == CHECKPOINT:
        facts = _checkpoint(path, given)
    else:
        facts = _onnx(path) if kind == ONNX else _engine(path, trust)
    if layers := facts.get("layers"):
        facts["precisions"] = dict(Counter(layer["precision"] for layer in layers).most_common())
    facts["plan"] = described
    return Inspection(str(path), kind, path.stat().st_size, sha256_of_file(path), **facts)


def _plan(path: Path, kind: str, target: str | None, trust: bool) -> PlanSummary:
    if kind == ONNX:
        return plan_of_onnx(path, target or "sm86")
    if kind != ENGINE:
        raise InputError(f"--plan for the {kind} {str(path)!r}", "an ONNX file or an engine")
    if target:
        fix = "leave --target out: an engine was built for one GPU"
        raise InputError(f"--target {target} for the engine {str(path)!r}", "an ONNX file", fix)
    engine = read_engine_manifest(path, trust)[1]
    product = f"{engine.product} {engine.version}"
    return summary(engine.plan, product, engine.target, engine.asked)


def _calibration(path: Path) -> dict[str, Any]:
    found = load_calibration(path)
    thresholds = {method: found.ranges(method) for method in METHODS}
    origin = {"dataset": found.dataset, "split": found.split, "images": len(found.images)}
    return {
        "manifest": {**dataclasses.asdict(found.subject), **origin},
        "ranges": {
            name: {"minimum": histogram.minimum, "maximum": histogram.maximum}
            | {method: thresholds[method][name] for method in METHODS}
            for name, histogram in found.histograms.items()
        },
    }


def _checkpoint(path: Path, given: Given | None) -> dict[str, Any]:
    from torch import nn  # the other kinds are read without torch

    from dabnet.checkpoint import load_checkpoint

    found = load_checkpoint(path, given)
    classes = found.labels.classes
    names = (
        *("model", "dataset", "trained_on", "epoch", "metrics", "recipe", "preprocessing"),
        "dilations",
    )
    values = dataclasses.asdict(replace(found, state={}, training={}))
    shape = {"image": ("N", 3, "H", "W"), "logits": ("N", len(classes), "H", "W")}
    image, logits = ({"name": n, "dtype": "float32", "shape": s} for n, s in shape.items())
    return {
        "manifest": {**{name: values[name] for name in names}, "classes": classes},
        "inputs": (image,),
        "outputs": (logits,),
        "layers": tuple(
            _layer(name, type(module).__name__, FP32)
            for name, module in found.network().named_modules()
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
        ),
        "notes": ("carries a training state, for --resume",) if found.training else (),
    }


def _onnx(path: Path) -> dict[str, Any]:
    model = load_onnx(path)
    manifest, note = None, ""
    try:
        manifest = check_onnx_file(path).manifest()
    except ChangedSince as changed:
        manifest, note = changed.manifest, _CHANGED
    except NoManifest:
        note = "no manifest: not written by dabnet-export"
    layers = layers_of(inferred(model).graph).values()
    inputs = model.graph.inputs
    return {
        "manifest": dataclasses.asdict(manifest) if manifest else None,
        "inputs": tuple(_tensor(value) for value in inputs if not value.is_initializer()),
        "outputs": tuple(map(_tensor, model.graph.outputs)),
        "layers": tuple(_layer(x.name, x.operator, x.precision) for x in layers),
        "notes": (note,) if note else (),
    }


def _tensor(value: ir.Value) -> dict[str, Any]:
    sides = (side if isinstance(side, int) else side.value or "?" for side in value.shape or ())
    dtype = value.dtype.numpy().name if value.dtype else "unknown"
    return {"name": value.name, "dtype": dtype, "shape": tuple(sides)}


def _layer(name: str, operator: str, precision: str) -> dict[str, str]:
    computes_in = _PRECISIONS.get(precision, precision.lower())
    return {"name": name, "operator": operator, "precision": computes_in}


def _engine(path: Path, trust: bool) -> dict[str, Any]:
    try:
        manifest, engine = read_engine_manifest(path, trust)
    except NoManifest as missing:
        refuse_untrusted(path, trust)
        return _foreign_engine(path, missing)
    layers, source = [], "read from the engine on this GPU"
    try:
        product = find_product(engine.product)
        if product.version != engine.version:
            raise BackendUnavailable(f"{product} is installed")
        layers = _kernels(read_engine(path, products=[product]))
    except (ArtifactError, BackendUnavailable) as error:
        source = f"as read back when it was built (not here: {str(error).split(';')[0]})"
    counts = engine.layers_by_type.items()
    return {
        "manifest": dataclasses.asdict(manifest),
        "inputs": (dataclasses.asdict(manifest.input),),
        "outputs": tuple(map(dataclasses.asdict, manifest.outputs)),
        "precisions": {_layer("", "", kind)["precision"]: count for kind, count in counts},
        "layers": tuple(layers),
        "notes": (f"layers: {source}", "agreement: that of the ONNX file it was built from"),
    }


def _foreign_engine(path: Path, missing: NoManifest) -> dict[str, Any]:
    """What an engine of another tool says of itself, which only a GPU can read."""
    try:
        facts = read_engine(path)
    except (ArtifactError, BackendUnavailable) as error:
        raise NoManifest(f"{str(missing).split(';')[0]}, and without it: {error}") from error
    layers = tuple(_kernels(facts))
    return {
        "inputs": tuple(map(dataclasses.asdict, facts.inputs)),
        "outputs": tuple(map(dataclasses.asdict, facts.outputs)),
        "layers": layers,
        "notes": (
            f"no manifest: not built by dabnet-export; loads with {facts.product}",
            *(f"profile: {_text(facts.profile)}" for _ in facts.profile[:1]),
            *(() if layers else ("built without --profilingVerbosity=detailed: no layers",)),
        ),
    }


def _kernels(facts: EngineFacts) -> list[dict[str, str]]:
    """Each layer; [] of an engine that was built without their details."""
    return [_layer(kernel.name, kernel.kind, kernel.arithmetic) for kernel in facts.kernels]


def print_inspection(console: Console, found: Inspection, layers: bool = False) -> None:
    """Print every section that holds something; ``layers`` lists each layer or range too."""
    line(console, f"{found.file}  {found.kind}, {found.bytes / 1e6:.2f} MB")
    for name, text in _lines({"sha256": found.sha256, **(found.manifest or {})}):
        line(console, f"  {name:<28}{text}")
    for note in found.notes:
        line(console, f"  {note}")
    tensors = table("tensor", "direction", "type", "shape", left=("direction", "type", "shape"))
    for direction, those in (("input", found.inputs), ("output", found.outputs)):
        for tensor in those:
            row(tensors, tensor["name"], direction, tensor["dtype"], _text(tensor["shape"]))
    counts = table("computes in", "layers")
    for precision, count in found.precisions.items():
        row(counts, precision, str(count))
    each = table("layer", "operator", "computes in", left=("operator", "computes in"))
    for layer in found.layers if layers else ():
        row(each, *layer.values())
    ranges = table("tensor", "minimum", "maximum", *METHODS)
    for name, values in found.ranges.items() if layers else ():
        row(ranges, name, *(f"{value:.4g}" for value in values.values()))
    for section in (tensors, counts, each, ranges):
        if section.row_count:
            console.print(section)
    if found.plan:
        _print_plan(console, found.plan, layers)


def _print_plan(console: Console, plan: PlanSummary, every: bool) -> None:
    line(
        console,
        f"plan of {plan.product} for {plan.target}: {plan.kernels} kernels,"
        f" {plan.activation_bytes / 1e6:.1f} MB of activations,"
        f" {plan.constant_bytes / 1e6:.1f} MB of constants",
    )
    for fault in plan.faults:
        line(console, f"  NOT AS ASKED: {fault}")
    types = table("convolutions", "kernels")
    for kind, count in plan.convolutions.items():
        row(types, kind, str(count))
    operators = table("operator", "with a convolution", "in other kernels")
    for name in sorted({*plan.fused, *plan.alone}):
        row(operators, name, str(plan.fused.get(name, 0)), str(plan.alone.get(name, 0)))
    texts = ("kernel", "reads", "writes", "operators")
    largest = sorted(plan.plan, key=lambda kernel: -kernel.activation_bytes)
    kernels = table(*texts, "MB", left=texts[1:])
    for kernel in plan.plan if every else largest[:LARGEST]:
        inside = " ".join(name if n == 1 else f"{n}x{name}" for name, n in kernel.operators.items())
        sides = (" ".join(map(_of_plan, tensors)) for tensors in (kernel.reads, kernel.writes))
        row(kernels, kernel.kind, *sides, inside, f"{kernel.activation_bytes / 1e6:.2f}")
    times = table("card", "modelled ms")
    for name, ms in plan.modelled_ms.items():
        own = CARDS[name].target
        row(times, name if own == plan.target else f"{name} ({own}: another plan)", f"{ms:.3f}")
    for section in (types, operators, kernels, times):
        if section.row_count:
            console.print(section)
    line(console, "The times are a model from data sheets: dabnet-bench measures.")


def _of_plan(tensor: PlanTensor) -> str:
    sides = "?" if tensor.shape is None else "x".join(map(str, tensor.shape))
    return f"{tensor.type}[{sides}]"


def _lines(values: dict[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """Name and text of each value that is not empty; those of a nested object under its name."""
    for key, value in values.items():
        if key in _LONG:
            continue
        if isinstance(value, dict):
            yield from _lines(value, f"{within}{key}.")
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
            yield from ((within + key, _text([x for x in v.values() if x != ""])) for v in value)
        elif value not in (None, "", (), []):
            yield within + key, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        nested = any(isinstance(part, (list, tuple)) for part in value)
        return ("; " if nested else ", ").join(map(_text, value))
    return value[:_DIGITS] if re.fullmatch("[0-9a-f]{64}", str(value)) else str(value)
