"""The inputs of a quantised convolution and its wanted outputs, as sums over images.

For each position of the output, p is the patch of the rounded input that the kernel covers, with a
1 behind it for the bias; y is the output of the FP32 convolution there, and r = y - w·p the part of
it that its FP32 weights w lack on the rounded input. Σ p pᵀ, Σ r pᵀ and Σ r² suffice to know the
error of any weights: a few MB per convolution, however many images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from calibration.collect import Image, ImageGraph, parts
from dabnet.graph.editing import conv_constants
from dabnet.graph.facts import Window, array, is_op, layer_name, node_name, nodes_of, source

# Numbers in the patches that are laid out at a time: 32 MB.
_CHUNK = 1 << 23

_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class QuantizedConv:
    """A two-dimensional Conv between Q/DQ, and its FP32 original.

    Attributes:
        layer: its ``layer_name``.
        output: name of the tensor that it computes, in both graphs.
        tensor: name of the tensor that it reads, before that is rounded.
        input_scale: of that tensor.
        weight: float32 (O, I / groups, kh, kw).
        bias: float32 (O,); 0 if it has none.
        levels: int8 of that shape.
        weight_scales: float32 (O,).
        window: its strides, dilations, pads and groups.
    """

    layer: str
    output: str
    tensor: str
    input_scale: np.float32
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    levels: NDArray[np.int8]
    weight_scales: NDArray[np.float32]
    window: Window


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over all positions of all images, for each group of the G of a convolution.

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
        weights = conv.weight.reshape(conv.window.group, -1, conv.weight[0].size)
        biases = conv.bias.reshape(*weights.shape[:2], 1)
        fp32 = np.concatenate([weights, biases], axis=2).astype(np.float64)
        k = fp32.shape[2]
        square = np.zeros((conv.window.group, k, k))
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
    model: ir.Model,
    convs: Sequence[QuantizedConv],
    images: Iterable[Image],
    progress: Callable[[], None] = lambda: None,
) -> list[Moments]:
    """Run the FP32 graph on ``images`` and return the moments of each convolution.

    Each is measured as if all before it were FP32, so that none depends on another.
    """
    graph = ImageGraph(model, {conv.tensor for conv in convs} | {conv.output for conv in convs})
    moments = [Moments.empty(conv) for conv in convs]
    last_reader = {conv.tensor: conv.output for conv in convs}
    of = {conv.output: (conv, sums) for conv, sums in zip(convs, moments, strict=True)}
    for image_name, batch in images:
        for part in parts(image_name, batch, graph.shape):
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
        progress()
    return moments


def quantized_convs(model: ir.Model, quantized: ir.Model) -> tuple[list[QuantizedConv], list[str]]:
    """Find the convolutions of ``quantized`` that read int8, with their originals in ``model``.

    Returns:
        They, and a line for each of another form than ``calibration.qdq`` writes for an image.
    """
    originals = {node.outputs[0].name: node for node in nodes_of(model.graph, "Conv")}
    found, lines = [], []
    for node in nodes_of(quantized.graph, "Conv"):
        if not all(is_op(source(node, index), "DequantizeLinear") for index in (0, 1)):
            continue
        original = originals.get(node.outputs[0].name)
        conv = None if original is None else _quantized_conv(node, original)
        if conv is not None:
            found.append(conv)
        else:
            lines.append(f"{node_name(node)}: left, not a plain 2-D Conv of this graph")
    return found, lines


def _quantized_conv(node: ir.Node, original: ir.Node) -> QuantizedConv | None:
    """The convolution as ``calibration.qdq.insert_qdq`` wrote it; None if it has another form."""
    quantize, dequantize = source(source(node)), source(node, 1)
    constants, read, window = conv_constants(original), original.inputs[0], Window.of(node)
    if quantize is None or dequantize is None or constants is None or read is None:
        return None
    (weight, bias), rounded = constants, dequantize.inputs[0]
    scale, scales, levels = map(array, (quantize.inputs[1], dequantize.inputs[1], rounded))
    if rounded is None or levels is None or scale is None or scales is None:
        return None
    alone = all(len(value.uses()) == 1 for value in (*dequantize.outputs, rounded))
    plain = window.auto_pad == "NOTSET" and weight.ndim == 4 and weight.shape == levels.shape
    if not (alone and plain) or quantize.inputs[0] is None or quantize.inputs[0].name != read.name:
        return None
    names = layer_name(node), str(node.outputs[0].name), str(read.name)
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
    return QuantizedConv(*names, np.float32(scale), weight, bias, levels, scales, window)


def _patches(
    x: NDArray[np.float32], conv: QuantizedConv, size: Sequence[int]
) -> Iterator[tuple[NDArray[np.float32], slice]]:
    """Yield the patches, (G, K + 1, positions), of some rows of the output at a time."""
    (height, width), window, (_, per_group, *kernel) = size, conv.window, conv.weight.shape
    (row_stride, column_stride), (row_step, column_step) = window.strides, window.dilations
    top, left, bottom, right = window.pads
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    span = [(side - 1) * step + 1 for side, step in zip(kernel, window.dilations, strict=True)]
    covered = sliding_window_view(padded, span, axis=(1, 2))  # (I, rows, columns, *span)
    covered = covered[:, ::row_stride, ::column_stride, ::row_step, ::column_step]
    covered = covered.transpose(0, 3, 4, 1, 2)  # (I, kh, kw, h, w)
    covered = covered.reshape(window.group, per_group, *kernel, height, width)
    k = conv.weight[0].size
    together = max(1, _CHUNK // (window.group * (k + 1) * width))
    for start in range(0, height, together):
        part = covered[..., start : start + together, :]
        patches = np.ones((window.group, k + 1, *part.shape[-2:]), dtype=np.float32)
        patches[:, :k].reshape(part.shape)[:] = part
        yield patches.reshape(window.group, k + 1, -1), slice(start, start + together)
