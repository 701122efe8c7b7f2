"""The head of a network in a graph: upsample, argmax, and perhaps the confidence beside it.

logits ─▶ Resize 1,1,s,s ─┬▶ ArgMax over axis 1 ─▶ Cast? ─▶ mask
                          └▶ Sub(·, ReduceMax) ─▶ Exp ─▶ ReduceSum ─▶ Reciprocal ─▶ Mul(255)
                             ─▶ Round ─▶ Cast ─▶ confidence
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dabnet.graph.editing import Insertion, remove, replace
from dabnet.graph.facts import array, channels, is_op, nodes_of, only_reader
from dabnet.head import LARGEST

# Both put pixel r at (r + 1/2) / s - 1/2, but on a side of one pixel.
HALF_PIXEL = ("half_pixel", "pytorch_half_pixel")
ALIGNED = "align_corners"


@dataclass(frozen=True, slots=True)
class UpsampledArgmax:
    """A linear Resize by whole numbers, read by an ArgMax over classes and by the confidence alone.

    Attributes:
        logits: (N, K, h, w), K known.
        argmax, resize: the nodes.
        scales: rows and columns of output for each of the input.
        aligned: whether pixel r of n lies at r (n / s - 1) / (n - 1), and not at
            (r + 1/2) / s - 1/2.
        mask: (N, h·s, w·s), behind a Cast if there is one.
        of_confidence: the nodes from Sub and ReduceMax to the Cast; () where there is none.
    """

    logits: ir.Value
    argmax: ir.Node
    resize: ir.Node
    scales: tuple[int, int]
    aligned: bool
    mask: ir.Value
    of_confidence: tuple[ir.Node, ...] = ()

    @property
    def kind(self) -> ir.DataType:
        """The type of the mask."""
        return self.mask.dtype or ir.DataType.INT64

    @property
    def confidence(self) -> ir.Value | None:
        """(N, h·s, w·s), if it is computed."""
        return self.of_confidence[-1].outputs[0] if self.of_confidence else None

    @property
    def confidence_kind(self) -> ir.DataType:
        """The type of the confidence."""
        assert self.confidence is not None
        return self.confidence.dtype or ir.DataType.UINT8

    def insertion(self, what: str) -> Insertion:
        """Nodes in place of these."""
        return Insertion(self.argmax, f"{self.mask.name}/{what}")

    def replace(self, mask: ir.Value, confidence: ir.Value | None) -> None:
        """Put another mask in its place, and another confidence if there is one."""
        replace(self.mask, mask)
        remove(self.argmax)
        if self.confidence is not None and confidence is not None:
            replace(self.confidence, confidence)
        for node in reversed(self.of_confidence):
            remove(node)
        remove(self.resize)


def confidence_of_sum(before: Insertion, total: ir.Value, kind: ir.DataType) -> ir.Value:
    """``dabnet.head.confidence_of`` from Σ exp(l - max l), as integers of ``kind``."""
    scale = before.constant(np.array(LARGEST, np.float32), "scale")
    share = before.op("Mul", [before.op("Reciprocal", [total]), scale])
    return before.op("Cast", [before.op("Round", [share])], {"to": int(kind)})


def upsampled_argmaxes(model: ir.Model) -> list[UpsampledArgmax]:
    """Every such head of a graph."""
    found = []
    for argmax in nodes_of(model.graph, "ArgMax"):
        resize = argmax.inputs[0].producer() if argmax.inputs[0] is not None else None
        logits = None if resize is None else resize.inputs[0]
        if resize is None or logits is None or (scales := _scales(argmax, resize)) is None:
            continue
        others = [node for node in resize.outputs[0].consumers() if node is not argmax]
        chain = _of_confidence(resize.outputs[0], others)
        if chain is None:
            continue
        cast = only_reader(argmax.outputs[0])
        last = cast if cast is not None and is_op(cast, "Cast") else argmax
        aligned = _coordinates(resize) == ALIGNED
        found.append(
            UpsampledArgmax(logits, argmax, resize, scales, aligned, last.outputs[0], chain)
        )
    return found


def _of_confidence(large: ir.Value, readers: Sequence[ir.Node]) -> tuple[ir.Node, ...] | None:
    """The nodes that compute the confidence from logits; None if ``readers`` compute another."""
    if not readers:
        return ()
    most = next((node for node in readers if is_op(node, "ReduceMax")), None)
    below = next((node for node in readers if is_op(node, "Sub")), None)
    if (
        len(readers) != 2
        or most is None
        or below is None
        or list(below.inputs) != [large, most.outputs[0]]
        or only_reader(most.outputs[0]) is not below
        or not _is_over_classes(most, keepdims=1)
    ):
        return None
    chain = [most, below]
    for operator in ("Exp", "ReduceSum", "Reciprocal", "Mul", "Round", "Cast"):
        node = only_reader(chain[-1].outputs[0])
        if node is None or not is_op(node, operator):
            return None
        chain.append(node)
    scales = [array(value) for value in chain[5].inputs]
    scaled = any(scale is not None and scale.ravel().tolist() == [LARGEST] for scale in scales)
    return tuple(chain) if scaled and _is_over_classes(chain[3], keepdims=0) else None


def _is_over_classes(reduction: ir.Node, keepdims: int) -> bool:
    """Whether it reduces axis 1; before opset 18 an attribute of ReduceMax says so."""
    how, given = reduction.attributes, reduction.inputs[1:]
    axes = array(given[0]) if given else np.array(how.get_ints("axes", ()))
    over_classes = axes is not None and axes.tolist() == [1]
    return over_classes and how.get_int("keepdims", 1) == keepdims


def _scales(argmax: ir.Node, resize: ir.Node) -> tuple[int, int] | None:
    """Rows and columns of output for each of the input; None if the nodes do not fit."""
    how, scales = resize.attributes, array(resize.inputs[2]) if len(resize.inputs) == 3 else None
    fits = (
        is_op(resize, "Resize")
        and how.get_string("mode", "nearest") == "linear"
        and _coordinates(resize) in (*HALF_PIXEL, ALIGNED)
        and "axes" not in how
        and not resize.outputs[0].is_graph_output()
        and argmax.attributes.get_int("axis", 0) == 1
        and argmax.attributes.get_int("keepdims", 1) == 0
        and channels(resize.inputs[0]) is not None
    )
    if not fits or scales is None or scales.shape != (4,) or (scales != np.rint(scales)).any():
        return None
    return (int(scales[2]), int(scales[3])) if (scales[:2] == 1).all() else None


def _coordinates(resize: ir.Node) -> str:
    return resize.attributes.get_string("coordinate_transformation_mode", "half_pixel")
