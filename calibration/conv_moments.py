"""What a quantised convolution reads and what it should compute, as sums over images.

For each position of the output, p is the patch of the rounded input that the kernel covers, with a
1 behind it for the bias; y is what the FP32 convolution computes there, and r = y - w·p what its
FP32 weights w lack of it on the rounded input. Σ p pᵀ, Σ r pᵀ and Σ r² are all that is needed to
know the error of any weights: a few MB a convolution, however many images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calibration.collect import Image, Progress, parts
from calibration.placements import is_conv
from calibration.stepwise import StepwiseGraph

# Numbers in the patches that are laid out at a time: 32 MB.
_CHUNK = 1 << 23

_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class QuantizedConv:
    """A two-dimensional Conv between Q/DQ, and its FP32 original.

    Attributes:
        output: the tensor it computes, in both graphs.
        tensor: what it reads before it is rounded.
        input_scale: of what it reads.
        weight: float32 (O, I / groups, kh, kw).
        bias: float32 (O,); 0 where it has none.
        rounded: name of the int8 initializer of that shape.
        weight_scales: float32 (O,).
        groups, strides, dilations, pads: as in ONNX.
    """

    output: str
    tensor: str
    input_scale: np.float32
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    rounded: str
    weight_scales: NDArray[np.float32]
    groups: int
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over all positions of all images, for each group g of G = ``groups``.

    K is the number of weights of one output channel.

    Attributes:
        fp32: w, the FP32 weights with the bias last, (G, O / G, K + 1).
        patches: Σ p pᵀ, (G, K + 1, K + 1).
        lacks: Σ r pᵀ, (G, O / G, K + 1).
        squared_lack: Σ r², (G, O / G).
        energy: Σ y², (G, O / G).
    """

    fp32: _Array
    patches: _Array
    lacks: _Array
    squared_lack: _Array
    energy: _Array

    @classmethod
    def empty(cls, conv: QuantizedConv) -> Moments:
        """No position yet."""
        weights = conv.weight.reshape(conv.groups, -1, conv.weight[0].size)
        biases = conv.bias.reshape(*weights.shape[:2], 1)
        fp32 = np.concatenate([weights, biases], axis=2).astype(np.float64)
        k = fp32.shape[2]
        square = np.zeros((conv.groups, k, k))
        return cls(fp32, square, np.zeros_like(fp32), *np.zeros((2, *fp32.shape[:2])))

    def add(self, conv: QuantizedConv, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
        """Add the positions of one image: x (I, H, W) as it is before rounding, y (O, h, w)."""
        levels = np.clip(np.rint(x / conv.input_scale), -128, 127)
        rounded = (levels * conv.input_scale).astype(np.float32)
        weights = self.fp32.astype(np.float32)
        for patches, rows in _patches(rounded, conv, y.shape[1:]):
            wanted = y[:, rows].reshape(*self.energy.shape, -1)
            with np.errstate(over="ignore", invalid="ignore"):  # Inf is found in the sums
                lack = wanted - weights @ patches
            across = patches.transpose(0, 2, 1)
            self.patches[:] += patches @ across
            self.lacks[:] += lack @ across
            self.squared_lack[:] += np.square(lack).sum(axis=2, dtype=np.float64)
            self.energy[:] += np.square(wanted).sum(axis=2, dtype=np.float64)

    def squared_error(self, weights: _Array) -> _Array:
        """Return Σ (y - v·p)², (G, O / G), for weights v like ``fp32``."""
        change = weights - self.fp32
        cross = (change * self.lacks).sum(axis=2)
        own = ((change @ self.patches) * change).sum(axis=2)
        error: _Array = np.maximum(self.squared_lack - 2 * cross + own, 0)
        return error


def collect_moments(
    model: onnx.ModelProto,
    convs: Sequence[QuantizedConv],
    images: Iterable[Image],
    progress: Progress | None = None,
) -> list[Moments]:
    """Run the FP32 graph on ``images`` and return the moments of each convolution.

    Each is taken as if all before it were FP32, so that none depends on what became of another.
    """
    graph = StepwiseGraph(model, {conv.tensor for conv in convs} | {conv.output for conv in convs})
    moments = [Moments.empty(conv) for conv in convs]
    last_reader = {conv.tensor: conv.output for conv in convs}
    of = {conv.output: (conv, sums) for conv, sums in zip(convs, moments, strict=True)}
    for done, (image_name, batch) in enumerate(images, start=1):
        for part in parts(image_name, batch, graph.input_shape):
            held: dict[str, NDArray[np.float32]] = {}
            for name, values in graph.run(part):
                if name in of:
                    conv, sums = of[name]
                    for x, y in zip(held[conv.tensor], values, strict=True):
                        sums.add(conv, x, y)
                    if last_reader[conv.tensor] == name:
                        del held[conv.tensor]
                if name in last_reader:
                    held[name] = values
        if progress is not None:
            progress(done, image_name)
    return moments


def quantized_convs(
    model: onnx.ModelProto, quantized: onnx.ModelProto
) -> tuple[list[QuantizedConv], list[str]]:
    """Find the convolutions of ``quantized`` that read int8, with their originals in ``model``.

    Returns:
        They, and a line for each of another form than ``calibration.qdq`` writes for an image.
    """
    originals = {node.output[0]: node for node in model.graph.node if is_conv(node)}
    float_weights = {item.name: item for item in model.graph.initializer}
    reader = _Reader(quantized)
    found, lines = [], []
    for node in quantized.graph.node:
        if not is_conv(node) or not reader.is_quantized(node):
            continue
        original = originals.get(node.output[0])
        weight = float_weights.get(original.input[1]) if original is not None else None
        conv = reader.conv(node, weight) if weight is not None else None
        if conv is not None and original is not None and original.input[0] == conv.tensor:
            found.append(conv)
        else:
            lines.append(f"{node.name or node.output[0]}: left, not a plain 2-D Conv of this graph")
    return found, lines


class _Reader:
    """Reads what ``calibration.qdq.insert_qdq`` wrote."""

    def __init__(self, quantized: onnx.ModelProto) -> None:
        nodes = quantized.graph.node
        self._made_by = {name: node for node in nodes for name in node.output}
        self._constants = {item.name: item for item in quantized.graph.initializer}
        self._reads = Counter(name for node in nodes for name in node.input)

    def is_quantized(self, node: onnx.NodeProto) -> bool:
        """Whether both the input and the weights are dequantised."""
        pair = [self._made_by.get(name) for name in node.input[:2]]
        return all(made is not None and made.op_type == "DequantizeLinear" for made in pair)

    def conv(self, node: onnx.NodeProto, weight: onnx.TensorProto) -> QuantizedConv | None:
        """The convolution, or None where it has another form."""
        to_float, of_weight = (self._made_by[name] for name in node.input[:2])
        quantize = self._made_by.get(to_float.input[0])
        rounded = self._constants.get(of_weight.input[0])
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        plain = attributes.get("auto_pad", b"NOTSET") == b"NOTSET" and len(weight.dims) == 4
        shared = self._reads[node.input[1]] > 1 or self._reads[of_weight.input[0]] > 1
        if quantize is None or rounded is None or shared or not plain:
            return None
        scale, scales = (self._constants.get(n.input[1]) for n in (quantize, of_weight))
        if scale is None or scales is None or list(rounded.dims) != list(weight.dims):
            return None
        bias = np.zeros(rounded.dims[0], dtype=np.float32)
        if len(node.input) > 2 and node.input[2]:
            if node.input[2] not in self._constants:
                return None
            bias = numpy_helper.to_array(self._constants[node.input[2]])
        return QuantizedConv(
            output=node.output[0],
            tensor=quantize.input[0],
            input_scale=np.float32(numpy_helper.to_array(scale)),
            weight=numpy_helper.to_array(weight),
            bias=bias,
            rounded=rounded.name,
            weight_scales=numpy_helper.to_array(scales),
            groups=attributes.get("group", 1),
            strides=tuple(attributes.get("strides", (1, 1))),
            dilations=tuple(attributes.get("dilations", (1, 1))),
            pads=tuple(attributes.get("pads", (0, 0, 0, 0))),
        )


def _patches(
    x: NDArray[np.float32], conv: QuantizedConv, size: Sequence[int]
) -> Iterator[tuple[NDArray[np.float32], slice]]:
    """Yield the patches, (G, K + 1, positions), of some rows of the output at a time."""
    height, width = size
    _, per_group, kernel_rows, kernel_columns = conv.weight.shape
    top, left, bottom, right = conv.pads
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    grouped = padded.reshape(conv.groups, per_group, *padded.shape[1:])
    (row_stride, column_stride), (row_step, column_step) = conv.strides, conv.dilations
    k = per_group * kernel_rows * kernel_columns
    together = max(1, _CHUNK // (conv.groups * (k + 1) * width))
    for start in range(0, height, together):
        rows = slice(start, min(start + together, height))
        count = rows.stop - start
        patches = np.ones((conv.groups, k + 1, count, width), dtype=np.float32)
        view = patches[:, :k].reshape(
            conv.groups, per_group, kernel_rows, kernel_columns, count, width
        )
        for i in range(kernel_rows):
            first = start * row_stride + i * row_step
            down = slice(first, first + (count - 1) * row_stride + 1, row_stride)
            for j in range(kernel_columns):
                first = j * column_step
                across = slice(first, first + (width - 1) * column_stride + 1, column_stride)
                view[:, :, i, j] = grouped[:, :, down, across]
        yield patches.reshape(conv.groups, k + 1, -1), rows
