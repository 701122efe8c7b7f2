"""The roofline: the minimum time in which a machine of known peaks can do a graph's own work.

ONNX graph → the kernels that it needs at least, each with its arithmetic and memory traffic.

A kernel is one operator that must read its inputs from memory and write its output there: a
convolution, a pool, an upsample, an argmax. Work on each pixel alone costs no traffic of its own:

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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from dabnet.errors import ArtifactError
from dabnet.graph.facts import Layer, image_axes, inferred, layers_of, node_name, static_shape

BYTES = {"fp64": 8, "fp32": 4, "fp16": 2, "bf16": 2, "int16": 2, "int8": 1, "fp8": 1}

_POINTWISE = {
    *("BatchNormalization", "PRelu", "Relu", "LeakyRelu", "Elu", "Clip", "Sigmoid", "HardSigmoid"),
    *("HardSwish", "Tanh", "Gelu", "Erf", "Exp", "Sqrt", "Abs", "Neg", "Reciprocal", "Dropout"),
    *("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sum", "Where", "Equal", "Greater", "Less"),
    *("GreaterOrEqual", "LessOrEqual", "And", "Or", "Not"),
    *("Cast", "QuantizeLinear", "DequantizeLinear"),
}
_VIEWS = {
    *("Concat", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice"),
    *("Split", "Pad", "Expand", "DepthToSpace", "SpaceToDepth"),
}


class Peaks(Protocol):
    """Peak rates of a machine: multiply-adds per second by type, and bytes of memory traffic."""

    @property
    def multiply_adds_per_s(self) -> Mapping[str, float]: ...
    @property
    def bytes_per_s(self) -> float: ...


class Cache(Protocol):
    """A cache that all cores share, such as a GPU's second-level cache, and its peak rate."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def bytes_per_s(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel.

    Attributes:
        name: of its operator.
        precision: of its arithmetic, as ``dabnet.graph.facts.Layer`` names it; "" for a pool.
        multiply_adds: of its layer. Work on each pixel alone is not counted.
        traffic_bytes: read and written, weights included.
    """

    name: str
    precision: str
    multiply_adds: int
    traffic_bytes: int

    def seconds(self, peaks: Peaks, cache: Cache | None = None) -> tuple[float, float]:
        """Minimum time of its arithmetic and of its traffic; it takes the longer of both.

        The arithmetic is at the peak of its type, or of float32 if that is higher: a backend may
        compute in float32 what is stored narrower, and some do.

        All traffic passes the cache, at its rate. Of what is read, as much as the cache holds may
        lie there before; of what is written, as much may stay there, in the same place if it
        replaces the former. Only the rest must come from memory or go there, meanwhile.
        """
        known = peaks.multiply_adds_per_s
        # GPUs multiply bfloat16 at the rate of FP16.
        kinds = ("fp32", self.precision, *(("fp16",) if self.precision == "bf16" else ()))
        peak = max(known.get(kind, 0.0) for kind in kinds)
        return self.multiply_adds / peak, self._traffic_s(peaks.bytes_per_s, cache)

    def _traffic_s(self, bytes_per_s: float, cache: Cache | None) -> float:
        if cache is None:
            return self.traffic_bytes / bytes_per_s
        through = self.traffic_bytes / max(cache.bytes_per_s, bytes_per_s)
        beyond = self.traffic_bytes - 2 * cache.size_bytes
        return max(through, beyond / bytes_per_s)


def kernels_of(
    model: ir.Model, example: tuple[int, int, int], precision: str
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
    for value in model.graph.inputs:
        for axis, side in zip(image_axes(value), example, strict=False):
            fixed = value.shape[axis] if value.shape is not None else None
            if isinstance(fixed, int) and fixed != side:
                raise ArtifactError(
                    f"a graph whose input {value.name!r} has {fixed} on axis {axis}",
                    f"one for (batch, height, width) = {example}",
                )
    return _Drafts(inferred(model, example).graph, precision).kernels()


_View = dict[ir.Value, tuple[float, int]]
"""Cost of reading a tensor: the share and the bytes per element of each buffer behind it."""


@dataclass(slots=True)
class _Draft:
    """A kernel that is being made, and what it reads."""

    name: str
    layer: Layer | None
    reads: _View


class _Drafts:
    """The kernels of a graph whose shapes are inferred, operator by operator.

    ``_owners`` holds the tensors in memory, with the number of the kernel that writes each (None:
    an input of the graph); ``_forms`` the bytes per element of each form in which one is wanted.
    """

    def __init__(self, graph: ir.Graph, precision: str) -> None:
        self._layers = layers_of(graph)
        plain = all(layer.precision == "fp32" for layer in self._layers.values())
        self._fp32 = precision if plain and precision in BYTES else "fp32"
        self._constants: set[ir.Value | None] = {None, *graph.initializers.values()}
        self._owners: dict[ir.Value, int | None] = {}
        self._forms = defaultdict[ir.Value, set[int]](set)
        self._views: dict[ir.Value, _View] = {}
        self._drafts: list[_Draft] = []
        for value in graph.inputs:
            if value not in self._constants:
                self._store(value, None)
        for node in graph:
            self._add(node)
        for value in graph.outputs:
            self._give(value)

    def kernels(self) -> tuple[Kernel, ...]:
        """Sum up what each draft reads, and writes for the others."""
        traffic = [0.0] * len(self._drafts)
        for number, draft in enumerate(self._drafts):
            for value, (share, width) in draft.reads.items():
                traffic[number] += share * width * elements(value)
                self._forms[value].add(width)
            if draft.layer is not None:
                width = BYTES.get(self._precision(draft.layer), BYTES["fp32"])
                traffic[number] += width * draft.layer.parameters
        for value, owner in self._owners.items():
            if owner is not None:
                traffic[owner] += elements(value) * sum(self._forms[value])
        return tuple(map(self._kernel, self._drafts, traffic))

    def _kernel(self, draft: _Draft, traffic: float) -> Kernel:
        if draft.layer is None:
            return Kernel(draft.name, "", 0, round(traffic))
        if draft.layer.multiply_adds is None:
            raise _unknown(draft.name)
        precision = self._precision(draft.layer)
        return Kernel(draft.name, precision, draft.layer.multiply_adds, round(traffic))

    def _precision(self, layer: Layer) -> str:
        return self._fp32 if layer.precision == "fp32" else layer.precision

    def _add(self, node: ir.Node) -> None:
        """Take one operator in."""
        data = [value for value in node.inputs if value and value not in self._constants]
        if not data or node.op_type in ("Shape", "Size"):
            self._constants.update(node.outputs)
        elif node.op_type in _VIEWS or _upsamples_for_argmax(node):
            self._pass_on(node, data)
        elif node.op_type in _POINTWISE or _scales_channels(node):
            self._fold(node, data)
        else:
            number = self._draft(node_name(node), self._layers.get(node), data)
            for value in node.outputs:
                self._store(value, number)

    def _pass_on(self, node: ir.Node, data: list[ir.Value]) -> None:
        """A tensor that is read where its inputs lie, or in part."""
        view = _joined(self._views[value] for value in data)
        for output in node.outputs:
            if not output.name:
                continue
            part = 1.0
            if node.op_type in ("Slice", "Split"):
                part = elements(output) / elements(data[0])
            self._views[output] = {
                buffer: (share * part, min(width, self._bytes(output)))
                for buffer, (share, width) in view.items()
            }

    def _fold(self, node: ir.Node, data: list[ir.Value]) -> None:
        """Pixel by pixel: by who reads it, or by the last kernel that makes an input of it."""
        joined = _joined(self._views[value] for value in data)
        owners = {buffer: self._owners[buffer] for buffer in joined}
        last = max((owner for owner in owners.values() if owner is not None), default=None)
        output = node.outputs[0]
        whole = any(
            owner == last and elements(buffer) == elements(output)
            for buffer, owner in owners.items()
        )
        if len(data) == 1 or len(joined) == 1 or last is None or not whole:
            self._pass_on(node, data)
            return
        others = {buffer: view for buffer, view in joined.items() if owners[buffer] != last}
        self._drafts[last].reads = _joined((self._drafts[last].reads, others))
        self._store(output, last)

    def _give(self, output: ir.Value) -> None:
        """Have an output of the graph written."""
        for value, (_, width) in self._views.get(output, {}).items():
            if self._owners[value] is None:  # an input, copied or changed pixel by pixel
                self._store(output, self._draft(str(output.name), None, [output]))
                self._forms[output].add(self._bytes(output))
                return
            self._forms[value].add(width)

    def _draft(self, name: str, layer: Layer | None, data: list[ir.Value]) -> int:
        reads = _joined(self._views[value] for value in data)
        self._drafts.append(_Draft(name, layer, reads))
        return len(self._drafts) - 1

    def _store(self, value: ir.Value, owner: int | None) -> None:
        if value.uses() or value.is_graph_output():
            elements(value)  # raises here if it is unknown
            self._owners[value] = owner
            self._views[value] = {value: (1.0, self._bytes(value))}

    def _bytes(self, value: ir.Value) -> int:
        if value.dtype in (None, ir.DataType.UNDEFINED):
            raise _unknown(str(value.name))
        if value.dtype == ir.DataType.FLOAT:
            return BYTES[self._fp32]
        return int(value.dtype.itemsize)


def elements(value: ir.Value) -> int:
    """Number of elements of a tensor; an ArtifactError if its shape is unknown."""
    shape = static_shape(value)
    if shape is None:
        raise _unknown(str(value.name))
    return math.prod(shape)


def _upsamples_for_argmax(node: ir.Node) -> bool:
    output = node.outputs[0]
    alone = [reader.op_type for reader, _ in output.uses()] == ["ArgMax"]
    return node.op_type == "Resize" and alone and not output.is_graph_output()


def _scales_channels(node: ir.Node) -> bool:
    """Whether it is a depthwise 1×1 convolution: a factor and a summand per channel."""
    if node.op_type != "Conv" or node.inputs[0] is None:
        return False
    kernel = static_shape(node.inputs[1]) or ()
    alone = kernel == (node.attributes.get_int("group", 1), *(1 for _ in kernel[1:]))
    if not alone or not set(node.attributes.get_ints("strides", ())) <= {1}:
        return False
    return elements(node.outputs[0]) == elements(node.inputs[0])


def _joined(views: Iterable[_View]) -> _View:
    """All of them: of each buffer the larger part, in the wider form."""
    joined: _View = {}
    for view in views:
        for value, (share, width) in view.items():
            before = joined.get(value, (0.0, 0))
            joined[value] = (max(share, before[0]), max(width, before[1]))
    return joined


def _unknown(name: str) -> ArtifactError:
    return ArtifactError(
        f"the size or type of {name!r} cannot be inferred", "a graph of ONNX's own operators"
    )
