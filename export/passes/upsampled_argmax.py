"""The head of a network in a graph: logits ─▶ Resize 1,1,s,s ─▶ ArgMax over axis 1 ─▶ Cast?."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dabnet.graph.editing import Insertion, remove, replace
from dabnet.graph.facts import array, channels, is_op, nodes_of, only_reader

# Both put pixel r at (r + 1/2) / s - 1/2, but on a side of one pixel.
HALF_PIXEL = ("half_pixel", "pytorch_half_pixel")
ALIGNED = "align_corners"


@dataclass(frozen=True, slots=True)
class UpsampledArgmax:
    """A linear Resize by whole numbers whose only reader is an ArgMax over classes.

    Attributes:
        logits: (N, K, h, w), K known.
        argmax, resize: the nodes.
        scales: rows and columns of output for each of the input.
        aligned: whether pixel r of n lies at r (n / s - 1) / (n - 1), and not at
            (r + 1/2) / s - 1/2.
        mask: (N, h·s, w·s), behind a Cast if there is one.
    """

    logits: ir.Value
    argmax: ir.Node
    resize: ir.Node
    scales: tuple[int, int]
    aligned: bool
    mask: ir.Value

    @property
    def kind(self) -> ir.DataType:
        """The type of the mask."""
        return self.mask.dtype or ir.DataType.INT64

    def insertion(self, what: str) -> Insertion:
        """Nodes in place of these."""
        return Insertion(self.argmax, f"{self.mask.name}/{what}")

    def replace(self, mask: ir.Value) -> None:
        """Put another mask in its place."""
        replace(self.mask, mask)
        remove(self.argmax)
        remove(self.resize)


def upsampled_argmaxes(model: ir.Model) -> list[UpsampledArgmax]:
    """Every such head of a graph."""
    found = []
    for argmax in nodes_of(model.graph, "ArgMax"):
        resize = argmax.inputs[0].producer() if argmax.inputs[0] is not None else None
        logits = None if resize is None else resize.inputs[0]
        if resize is None or logits is None or (scales := _scales(argmax, resize)) is None:
            continue
        cast = only_reader(argmax.outputs[0])
        last = cast if cast is not None and is_op(cast, "Cast") else argmax
        aligned = _coordinates(resize) == ALIGNED
        found.append(UpsampledArgmax(logits, argmax, resize, scales, aligned, last.outputs[0]))
    return found


def _scales(argmax: ir.Node, resize: ir.Node) -> tuple[int, int] | None:
    """Rows and columns of output for each of the input; None if the nodes do not fit."""
    how, scales = resize.attributes, array(resize.inputs[2]) if len(resize.inputs) == 3 else None
    fits = (
        is_op(resize, "Resize")
        and how.get_string("mode", "nearest") == "linear"
        and _coordinates(resize) in (*HALF_PIXEL, ALIGNED)
        and "axes" not in how
        and only_reader(resize.outputs[0]) is argmax
        and argmax.attributes.get_int("axis", 0) == 1
        and argmax.attributes.get_int("keepdims", 1) == 0
        and channels(resize.inputs[0]) is not None
    )
    if not fits or scales is None or scales.shape != (4,) or (scales != np.rint(scales)).any():
        return None
    return (int(scales[2]), int(scales[3])) if (scales[:2] == 1).all() else None


def _coordinates(resize: ir.Node) -> str:
    return resize.attributes.get_string("coordinate_transformation_mode", "half_pixel")
