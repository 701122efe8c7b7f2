"""What an artifact is, read without running it: checkpoint, ONNX file or engine."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from dabnet.artifact import CHECKPOINT, DEFAULT_SIZE, ONNX, kind_of
from dabnet.errors import BackendUnavailable, InputError
from dabnet.files import sha256_of_file
from dabnet.models import check_size
from dabnet.runtime.cuda import gpu_unavailable_reason
from dabnet.runtime.manifest import ONNX_KEY, EngineInfo, Manifest
from dabnet.runtime.trt.check import read_engine_manifest
from dabnet.runtime.trt.layers import named_layers
from dabnet.runtime.trt.product import create, find_product, logger_of
from export.graph.layers import Layer, image_axes, summarise_graph, total_multiply_adds
from export.onnx_file import load_onnx, manifest_of

FORMAT = 1

# TensorRT's names of types, as an artifact's precision is written.
_PRECISIONS = {"Float": "fp32", "Half": "fp16", "BFloat16": "bf16"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output: numpy dtype name, and shape with the names of sides that may change."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything ``dabnet-export inspect`` tells; its JSON has these keys.

    Attributes:
        file, bytes, sha256: the file; of an engine without the manifest beside it.
        kind: ``checkpoint``, ``onnx`` or ``engine``.
        manifest: of an ONNX file or an engine, by the names of ``dabnet.runtime.manifest``; None
            for a checkpoint and for files of other tools.
        checkpoint: model, dataset, classes, epoch, metrics (shares 0…1) and recipe of a
            checkpoint; None for the others.
        inputs, outputs: of a checkpoint those of its network.
        operators: how many of each, most frequent first; modules by class for a checkpoint; {}
            for an engine.
        precisions: how many layers compute in which type.
        layers: the layers with weights; of an engine all of them, () where it cannot be read here.
        parameters: numbers stored; None for an engine.
        example: (batch, height, width) that shapes and multiply-adds hold for; None if not known.
        multiply_adds: of all layers for one call at ``example``; None if not known.
        opset: version by domain of an ONNX file; {} for the others.
        ir_version, producer: of an ONNX file; 0 and "" for the others.
        notes: what else the reader must know.
        format: of this record.
    """

    file: str
    kind: str
    bytes: int
    sha256: str
    manifest: dict[str, Any] | None = None
    checkpoint: dict[str, Any] | None = None
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    operators: dict[str, int] = dataclasses.field(default_factory=dict)
    precisions: dict[str, int] = dataclasses.field(default_factory=dict)
    layers: tuple[Layer, ...] = ()
    parameters: int | None = None
    example: tuple[int, int, int] | None = None
    multiply_adds: int | None = None
    opset: dict[str, int] = dataclasses.field(default_factory=dict)
    ir_version: int = 0
    producer: str = ""
    notes: tuple[str, ...] = ()
    format: int = FORMAT

    def record(self) -> dict[str, Any]:
        """Plain values for JSON, under stable keys."""
        return dataclasses.asdict(self)


def inspect_artifact(
    path: Path, size: tuple[int, int] | None = None, dataset: str | None = None
) -> Inspection:
    """Read what ``path`` is. No GPU and no TensorRT are needed, though they tell more.

    Args:
        path: a checkpoint, an ONNX file (of any tool) or an engine.
        size: (height, width) for multiply-adds where the artifact leaves it open.
        dataset: as for ``dabnet.checkpoint.load_checkpoint``.

    Raises:
        DabnetError: the file is missing, empty, damaged, or its size is fixed to another.
    """
    kind = kind_of(path)
    facts: dict[str, Any]
    if kind == CHECKPOINT:
        facts = _checkpoint(path, size or DEFAULT_SIZE, dataset)
    elif kind == ONNX:
        facts = _onnx(path, size)
    else:
        facts = _engine(path, size)
    return Inspection(
        file=str(path), kind=kind, bytes=path.stat().st_size, sha256=sha256_of_file(path), **facts
    )


def _checkpoint(path: Path, size: tuple[int, int], dataset: str | None) -> dict[str, Any]:
    from dabnet.checkpoint import load_checkpoint  # the other kinds are read without torch
    from dabnet.models.summary import summarise

    checkpoint = load_checkpoint(path, dataset)
    check_size(*size)
    rows = summarise(checkpoint.network(), size)
    layers = tuple(
        Layer(row.name, row.kind, "fp32", row.shape, row.parameters, row.multiply_adds)
        for row in rows
        if row.multiply_adds
    )
    classes = len(checkpoint.labels.classes)
    return {
        "checkpoint": {
            "model": checkpoint.model,
            "dataset": checkpoint.dataset,
            "classes": list(checkpoint.labels.classes),
            "epoch": checkpoint.epoch,
            "metrics": checkpoint.metrics,
            "recipe": checkpoint.recipe,
        },
        "inputs": (Tensor("image", "float32", ("N", 3, "H", "W")),),
        "outputs": (Tensor("logits", "float32", ("N", classes, "H", "W")),),
        "operators": _most_frequent(Counter(row.kind for row in rows)),
        "precisions": {"fp32": len(layers)},
        "layers": layers,
        "parameters": sum(row.parameters for row in rows),
        "example": (1, *size),
        "multiply_adds": total_multiply_adds(layers),
        "notes": ("carries a training state, for --resume",) if checkpoint.training else (),
    }


def _onnx(path: Path, size: tuple[int, int] | None) -> dict[str, Any]:
    model = load_onnx(path)
    carried = any(entry.key == ONNX_KEY for entry in model.metadata_props)
    manifest = manifest_of(model, str(path)) if carried else None
    example = _example(model, manifest, size, path)
    summary = summarise_graph(model, example)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    return {
        "manifest": dataclasses.asdict(manifest) if manifest else None,
        "inputs": tuple(map(_tensor, inputs)),
        "outputs": tuple(map(_tensor, model.graph.output)),
        "operators": summary.operators,
        "precisions": _most_frequent(Counter(layer.precision for layer in summary.layers)),
        "layers": summary.layers,
        "parameters": summary.parameters,
        "example": example,
        "multiply_adds": summary.multiply_adds,
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "ir_version": model.ir_version,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "notes": () if carried else ("no manifest: not written by dabnet-export",),
    }


def _example(
    model: onnx.ModelProto, manifest: Manifest | None, size: tuple[int, int] | None, path: Path
) -> tuple[int, int, int] | None:
    """(batch, height, width) of the image input; None where it is open and nobody says."""
    for value in model.graph.input:
        if axes := image_axes(value):
            dims = value.type.tensor_type.shape.dim
            batch, height, width = (dims[axis].dim_value for axis in axes)  # 0 where open
            for fixed, wanted in zip((height, width), size or (0, 0), strict=True):
                if fixed and wanted not in (0, fixed):
                    raise _wrong_size(path, size, (height, width))
            if size is None and manifest is not None:
                return manifest.example
            height, width = size or (height, width)
            if height and width:
                return batch or 1, height, width
    return None


def _engine(path: Path, size: tuple[int, int] | None) -> dict[str, Any]:
    manifest, engine = read_engine_manifest(path)
    if size is not None and not manifest.is_dynamic and size != manifest.size:
        raise _wrong_size(path, size, manifest.size)
    layers: tuple[Layer, ...] = ()
    try:
        layers, note = _read_back(path, engine), "layers: read from the engine on this GPU"
    except BackendUnavailable as error:
        reason = str(error).split(";")[0]
        note = f"layers: as read back when it was built (not here: {reason})"
    types = Counter({_precision(kind): count for kind, count in engine.layers_by_type.items()})
    if layers:
        types = Counter(layer.precision for layer in layers)
    tensors = (manifest.input, manifest.output)
    named = (Tensor(t.name, t.dtype, _named(t.shape)) for t in tensors)
    image, mask = named
    return {
        "manifest": dataclasses.asdict(manifest),
        "inputs": (image,),
        "outputs": (mask,),
        "precisions": _most_frequent(types),
        "layers": layers,
        "example": manifest.example,
        "notes": (note,),
    }


def _read_back(path: Path, engine: EngineInfo) -> tuple[Layer, ...]:
    """The engine's layers from its inspector; () if it was built without their details.

    Raises:
        BackendUnavailable: TensorRT in the engine's version, or a GPU that loads it, is not here.
    """
    product = find_product(engine.product)
    if product.version != engine.version:
        raise BackendUnavailable(f"{product.name} {product.version} is installed")
    if reason := gpu_unavailable_reason():
        raise BackendUnavailable(reason)
    with logger_of(product).collect() as messages:
        loaded = create(product, "Runtime").deserialize_cuda_engine(path.read_bytes())
        if loaded is None:
            raise BackendUnavailable(f"{product.name} refuses it: {messages.first_error()}")
        return tuple(
            Layer(name, kind, _precision(computes), None, None, None)
            for name, kind, computes in named_layers(product.module, loaded)
        )


def _precision(tensorrt_type: str) -> str:
    return _PRECISIONS.get(tensorrt_type, tensorrt_type.lower())


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    tensor = value.type.tensor_type
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except KeyError:  # a sequence, a map, or no type at all
        dtype = "unknown"
    dims = tensor.shape.dim
    sides = (dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims)
    return Tensor(value.name, dtype, tuple(sides))


def _named(shape: tuple[int, ...]) -> tuple[int | str, ...]:
    """An engine's sides that each call chooses by the letters of the contract."""
    letters = ("N", "H", "W", "C")
    return tuple(letter if side < 0 else side for side, letter in zip(shape, letters, strict=False))


def _most_frequent(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _wrong_size(path: Path, size: tuple[int, int] | None, fixed: tuple[int, int]) -> InputError:
    height, width = size or (0, 0)
    return InputError(
        f"--size {height}x{width}, but {str(path)!r} takes {fixed[0]}x{fixed[1]} only",
        fix="leave --size out, or export at that size",
    )
