"""The roofline: the least time in which a machine of measured peaks can do a graph's own work.

ONNX graph → the kernels that it takes at the least, each with its arithmetic and memory traffic.

A kernel is one operator that must read its inputs from memory and write its output there: a
convolution, a pool, an upsample, an argmax. What acts pixel by pixel costs no traffic of its own:

- with one tensor (normalisation, activation, Cast, Q/DQ, a depthwise 1×1 convolution), it is done
  where the tensor is written or read, whichever moves less;
- with several (Add, Mul), it is done by the last of the kernels that make them: that one reads the
  others and writes the result, and its own output only if something else reads that too;
- Concat, Transpose, Reshape and Slice move nothing: producers write in place, readers read parts.

An upsample whose only reader is an ArgMax is one kernel with it. Each tensor is written once in
each form (float, int8) that some reader wants, and read once by each kernel. No implementation that
passes each of these tensors through memory can do with less.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx.inliner
from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from bench.record import Limit, Peaks, Setting
from dabnet.errors import ArtifactError
from export.graph.layers import Layer, image_axes, summarise_graph, tensor_shapes, tensor_types
from export.onnx_file import load_onnx

BYTES = {"fp64": 8, "fp32": 4, "fp16": 2, "bf16": 2, "int16": 2, "int8": 1, "fp8": 1}

_POINTWISE = {
    *("BatchNormalization", "PRelu", "Relu", "LeakyRelu", "Elu", "Clip", "Sigmoid", "HardSigmoid"),
    *("HardSwish", "Tanh", "Gelu", "Erf", "Exp", "Sqrt", "Abs", "Neg", "Reciprocal", "Dropout"),
    *("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sum", "Where", "Equal", "Greater", "Less"),
    *("Cast", "QuantizeLinear", "DequantizeLinear"),
}
_VIEWS = {
    *("Concat", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice"),
    *("Split", "Pad", "Expand", "DepthToSpace", "SpaceToDepth"),
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel.

    Attributes:
        name: of its operator.
        precision: of its arithmetic, as ``export.graph.layers.Layer`` names it; "" for a pool.
        multiply_adds: of its layer. What is done pixel by pixel is not counted.
        traffic_bytes: read and written, weights included.
    """

    name: str
    precision: str
    multiply_adds: int
    traffic_bytes: int


_View = dict[str, tuple[float, int]]
"""What reading a tensor takes: the share and the bytes an element of each buffer behind it."""


@dataclass(slots=True)
class _Draft:
    """A kernel that is being made, and what it reads."""

    name: str
    layer: Layer | None
    reads: _View = field(default_factory=dict)

    def read(self, view: _View) -> None:
        self.reads = _joined((self.reads, view))


@dataclass(slots=True)
class _Buffer:
    """A tensor in memory.

    Attributes:
        elements: its number of them.
        owner: number of the kernel that writes it; None for an input of the graph.
        forms: bytes an element of each form in which it is wanted.
    """

    elements: int
    owner: int | None
    forms: set[int] = field(default_factory=set)


def kernels_of(
    model: onnx.ModelProto, example: tuple[int, int, int], precision: str
) -> tuple[Kernel, ...]:
    """Return the kernels of one call, in graph order.

    Args:
        model: not modified.
        example: (batch, height, width) of the call, for the sides that the graph leaves open.
        precision: in which a backend computes a graph whose layers all are float32 (``fp16``,
            ``int8``); any other graph says each layer's itself.

    Raises:
        ArtifactError: the graph is of another size, or a shape cannot be inferred.
    """
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        for axis, side in zip(image_axes(value), example, strict=False):
            if dims[axis].HasField("dim_value") and dims[axis].dim_value != side:
                raise ArtifactError(
                    f"a graph whose input {value.name!r} has {dims[axis].dim_value} on axis {axis}",
                    f"one for (batch, height, width) = {example}",
                )
    return _Drafts(model, example, precision).kernels()


class _Drafts:
    """The kernels of a graph, operator by operator."""

    def __init__(
        self, model: onnx.ModelProto, example: tuple[int, int, int], precision: str
    ) -> None:
        graph = model.graph
        self._shapes, self._types = tensor_shapes(model, example), tensor_types(model)
        self._layers = {layer.name: layer for layer in summarise_graph(model, example).layers}
        plain = all(layer.precision == "fp32" for layer in self._layers.values())
        self._fp32 = precision if plain and precision in BYTES else "fp32"
        self._readers: dict[str, list[str]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._readers[name].append(node.op_type)
        for value in graph.output:
            self._readers[value.name].append("")
        self._constants = {tensor.name for tensor in graph.initializer} | {""}
        self._buffers: dict[str, _Buffer] = {}
        self._views: dict[str, _View] = {}
        self._drafts: list[_Draft] = []
        for value in graph.input:
            if value.name not in self._constants:
                self._store(value.name, None)
        for node in graph.node:
            self._add(node)
        for value in graph.output:
            self._give(value.name)

    def kernels(self) -> tuple[Kernel, ...]:
        """Sum up what each draft reads, and writes for the others."""
        traffic = [0.0] * len(self._drafts)
        for number, draft in enumerate(self._drafts):
            for name, (share, width) in draft.reads.items():
                traffic[number] += share * width * self._buffers[name].elements
                self._buffers[name].forms.add(width)
            if draft.layer is not None:
                width = BYTES.get(self._precision(draft.layer), BYTES["fp32"])
                traffic[number] += width * (draft.layer.parameters or 0)
        for buffer in self._buffers.values():
            if buffer.owner is not None:
                traffic[buffer.owner] += buffer.elements * sum(buffer.forms)
        return tuple(map(self._kernel, self._drafts, traffic))

    def _kernel(self, draft: _Draft, traffic: float) -> Kernel:
        if draft.layer is None:
            return Kernel(draft.name, "", 0, round(traffic))
        if draft.layer.multiply_adds is None:
            raise _unknown(draft.name)
        return Kernel(
            draft.name, self._precision(draft.layer), draft.layer.multiply_adds, round(traffic)
        )

    def _precision(self, layer: Layer) -> str:
        return self._fp32 if layer.precision == "fp32" else layer.precision

    def _add(self, node: onnx.NodeProto) -> None:
        """Take one operator in."""
        data = [name for name in node.input if name not in self._constants]
        if not data or node.op_type in ("Shape", "Size"):
            self._constants.update(node.output)
        elif node.op_type in _VIEWS or self._upsamples_for_argmax(node):
            self._pass_on(node, data)
        elif node.op_type in _POINTWISE or self._scales_channels(node):
            self._fold(node, data)
        else:
            number = self._draft(node.name or node.output[0], data)
            for name in filter(None, node.output):
                self._store(name, number)

    def _pass_on(self, node: onnx.NodeProto, data: list[str]) -> None:
        """A tensor that is read where its inputs lie, or in part."""
        view = _joined(self._views[name] for name in data)
        for name in filter(None, node.output):
            part = 1.0
            if node.op_type in ("Slice", "Split"):
                part = self._elements(name) / self._elements(data[0])
            self._views[name] = {
                buffer: (share * part, min(width, self._bytes(name)))
                for buffer, (share, width) in view.items()
            }

    def _fold(self, node: onnx.NodeProto, data: list[str]) -> None:
        """Pixel by pixel: by who reads it, or by the last kernel that makes an input of it."""
        joined = _joined(self._views[name] for name in data)
        owners = {buffer: self._buffers[buffer].owner for buffer in joined}
        last = max((owner for owner in owners.values() if owner is not None), default=None)
        out = node.output[0]
        whole = any(
            owner == last and self._buffers[buffer].elements == self._elements(out)
            for buffer, owner in owners.items()
        )
        if len(data) == 1 or len(joined) == 1 or last is None or not whole:
            self._pass_on(node, data)
            return
        self._drafts[last].read({b: v for b, v in joined.items() if owners[b] != last})
        self._store(out, last)

    def _give(self, output: str) -> None:
        """Have an output of the graph written."""
        for name, (_, width) in self._views.get(output, {}).items():
            if self._buffers[name].owner is None:  # an input, copied or changed pixel by pixel
                self._store(output, self._draft(output, [output]))
                self._buffers[output].forms.add(self._bytes(output))
                return
            self._buffers[name].forms.add(width)

    def _draft(self, name: str, data: list[str]) -> int:
        draft = _Draft(name, self._layers.get(name))
        for tensor in data:
            draft.read(self._views[tensor])
        self._drafts.append(draft)
        return len(self._drafts) - 1

    def _store(self, name: str, owner: int | None) -> None:
        if self._readers[name]:
            self._buffers[name] = _Buffer(self._elements(name), owner)
            self._views[name] = {name: (1.0, self._bytes(name))}

    def _elements(self, name: str) -> int:
        if name not in self._shapes:
            raise _unknown(name)
        return math.prod(self._shapes[name])

    def _bytes(self, name: str) -> int:
        kind = self._types.get(name, TensorProto.UNDEFINED)
        if kind == TensorProto.UNDEFINED:
            raise _unknown(name)
        if kind == TensorProto.FLOAT:
            return BYTES[self._fp32]
        return int(tensor_dtype_to_np_dtype(kind).itemsize)

    def _upsamples_for_argmax(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "Resize" and self._readers[node.output[0]] == ["ArgMax"]

    def _scales_channels(self, node: onnx.NodeProto) -> bool:
        """Whether it is a depthwise 1×1 convolution: a factor and a summand a channel."""
        if node.op_type != "Conv":
            return False
        kernel = self._shapes.get(node.input[1], ())
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        strides = next((a.ints for a in node.attribute if a.name == "strides"), ())
        alone = kernel == (groups, *(1 for _ in kernel[1:]))
        return (
            alone
            and set(strides) <= {1}
            and self._elements(node.output[0]) == self._elements(node.input[0])
        )


def _joined(views: Iterable[_View]) -> _View:
    """All of them: of each buffer the larger part, in the wider form."""
    joined: _View = {}
    for view in views:
        for name, (share, width) in view.items():
            before = joined.get(name, (0.0, 0))
            joined[name] = (max(share, before[0]), max(width, before[1]))
    return joined


def _unknown(name: str) -> ArtifactError:
    return ArtifactError(
        f"the size or type of {name!r} cannot be inferred", "a graph of ONNX's own operators"
    )


def limit_of(
    graph: Path, setting: Setting, precision: str, peaks: Peaks, device_seconds: float | None
) -> Limit:
    """Return the limit of one call of an ONNX graph.

    A kernel takes the longer of its arithmetic, at the peak of its type, and its traffic; kernels
    follow each other. Work is counted on the graph given: of one that was rewritten for a backend,
    on what it was rewritten to.

    Args:
        graph: ONNX file with the operations of one call.
        setting: size and batch. Streams share one machine: the limit of a call is that of one.
        precision: of the arithmetic, where the graph itself is float32; see ``kernels_of``.
        peaks: of the device that computed; ``fp32`` is among them.
        device_seconds: median time of a call in the device scope; None gives no share.

    Raises:
        InputError, ArtifactError: the file cannot be read, is of another size, or has a layer
            whose shape cannot be inferred.
    """
    kernels = kernels_of(load_onnx(graph), (setting.batch, *setting.size), precision)
    arithmetic = [kernel.multiply_adds / _peak(peaks, kernel) for kernel in kernels]
    traffic = [kernel.traffic_bytes / peaks.bytes_per_s for kernel in kernels]
    seconds = sum(map(max, arithmetic, traffic))
    return Limit(
        seconds=seconds,
        arithmetic_s=sum(arithmetic),
        traffic_s=sum(traffic),
        multiply_adds=sum(kernel.multiply_adds for kernel in kernels),
        traffic_bytes=sum(kernel.traffic_bytes for kernel in kernels),
        kernels=len(kernels),
        share=seconds / device_seconds if device_seconds else None,
    )


def _peak(peaks: Peaks, kernel: Kernel) -> float:
    """Of the kernel's type; of float32 where that was not measured or is more.

    A backend may compute in float32 what is stored narrower, and some do.
    """
    measured = peaks.multiply_adds_per_s
    kind = {"bf16": "fp16"}.get(kernel.precision, kernel.precision)
    return max(measured["fp32"], measured.get(kind, 0.0))
