"""Search for the first tensor in which two ONNX graphs part, in the order of the computation.

Tensors are matched by name, and only those that both graphs have as floats: Q/DQ pairs, and what a
pass has fused or renamed, stand in one graph alone and are passed over. Both graphs run node by
node, so that each tensor is what the graph says and not what a fusion made of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dabnet.errors import ArtifactError, DabnetError, InputError, first_line
from dabnet.graph.execution import Stepwise, computed
from dabnet.graph.facts import node_name
from export.verify.masks import sqnr_db

if TYPE_CHECKING:
    from dabnet.console import ProgressBar

Values = NDArray[Any]


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """One tensor of both graphs, whose names ``a``, ``b`` differ only among a parting's inputs.

    Attributes:
        relative_error: ‖a - b‖ / ‖a‖; None where the shapes differ, where a value is not finite,
            or where a is 0 and b is not.
        max_abs: largest |a - b|; None where the shapes differ or a value is not finite.
        sqnr_db: ‖a‖² / ‖a - b‖² in dB; None also where the tensors are equal.
        parted: whether the relative error exceeds the tolerance, or cannot be told.
    """

    a: str
    b: str
    shape_a: tuple[int, ...]
    shape_b: tuple[int, ...]
    relative_error: float | None
    max_abs: float | None
    sqnr_db: float | None
    parted: bool


@dataclass(frozen=True, slots=True)
class Parting:
    """The first tensor that differs, the node that computes it, and what that node reads.

    ``inputs`` are the float inputs of both nodes by position (a Conv's: data, weights, bias), or by
    name where the nodes are of different operators.
    """

    tensor: str
    node_a: str  # name and operator
    node_b: str
    inputs: tuple[TensorDifference, ...]


@dataclass(frozen=True, slots=True)
class LayerReport:
    """The result of ``compare_layers``; its JSON has these keys (docs/verify_inspect.md)."""

    image: str
    tolerance: float
    tensors: tuple[TensorDifference, ...]  # the matched ones, in the order of A's nodes
    unmatched_a: int  # how many stand in one graph only, or as other types
    unmatched_b: int
    parting: Parting | None  # None where no tensor exceeds the tolerance

    @property
    def rejoins(self) -> TensorDifference | None:
        """The last tensor, where its error is below a tenth of the parting's; None elsewhere.

        A pass that moves a factor past a node leaves a name that stands for another value.
        """
        last = self.tensors[-1]
        parted = next((tensor for tensor in self.tensors if tensor.parted), last)
        if parted.relative_error is None or last.relative_error is None:
            return last if last is not parted and not last.parted else None
        return last if last.relative_error < parted.relative_error / 10 else None


def compare_layers(
    a: ir.Model,
    b: ir.Model,
    image: str,
    given: tuple[Values, Values],
    tolerance: float,
    *,
    progress: ProgressBar,
) -> LayerReport:
    """Run both graphs on one image and compare every float tensor that both have.

    The graphs run side by side, and a tensor is held only until the other graph has computed it.
    ``image`` is the image's name, ``given`` what A takes of it, and B. A tensor has parted whose
    relative error exceeds ``tolerance``.

    Raises:
        InputError: the graphs share no tensor.
        ArtifactError: onnxruntime cannot run one of them on the image.
    """
    graphs = (_Graph(a, "A", given[0]), _Graph(b, "B", given[1]))
    order, known = list(computed(a)), set(computed(b))
    shared = {name for name in order if name in known}
    waiting: tuple[dict[str, Values], dict[str, Values]] = ({}, {})
    found: dict[str, TensorDifference] = {}
    unmatched = [0, 0]
    with progress("comparing tensors", len(shared)) as step:
        for side, name, values in _alternating(*(graph.run() for graph in graphs)):
            if name not in shared:
                unmatched[side] += _is_float(values)
                continue
            if name not in waiting[1 - side]:
                waiting[side][name] = values
                continue
            other = waiting[1 - side].pop(name)
            pair = (values, other) if side == 0 else (other, values)
            if all(map(_is_float, pair)):
                found[name] = difference(name, name, *pair, tolerance)
            else:
                unmatched = [n + _is_float(x) for n, x in zip(unmatched, pair, strict=True)]
            step()
    if not found:
        unmatchable = "A and B share no tensor by name, so their layers cannot be matched"
        fix = "leave --layers out to compare their masks"
        raise InputError(unmatchable, "two graphs exported from one checkpoint", fix)
    tensors = tuple(found[name] for name in order if name in found)
    first = next((tensor.a for tensor in tensors if tensor.parted), None)
    parting = None if first is None else _parting(first, *graphs, tolerance)
    return LayerReport(image, tolerance, tensors, unmatched[0], unmatched[1], parting)


def _alternating(*runs: Iterator[tuple[str, Values]]) -> Iterator[tuple[int, str, Values]]:
    """Yield (0, name, values) of the first run and (1, name, values) of the second in turn."""
    for pair in zip_longest(*runs):
        for side, item in enumerate(pair):
            if item is not None:
                yield side, *item


def _is_float(values: Values) -> bool:
    return values.dtype.kind == "f"


def difference(
    name_a: str, name_b: str, a: Values, b: Values, tolerance: float
) -> TensorDifference:
    relative = largest = sqnr = None
    if a.shape == b.shape and np.isfinite(a).all() and np.isfinite(b).all():
        wide_a = a.astype(np.float64)
        apart = b.astype(np.float64) - wide_a
        signal, noise = float(np.square(wide_a).sum()), float(np.square(apart).sum())
        largest = float(np.abs(apart).max(initial=0.0))
        sqnr = sqnr_db(signal, noise)
        if noise == 0 or signal > 0:
            relative = math.sqrt(noise / signal) if noise else 0.0
    elif a.shape == b.shape and np.array_equal(a, b, equal_nan=True):
        relative = 0.0  # the same Inf or NaN in both: they have not parted
    parted = relative is None or relative > tolerance
    return TensorDifference(name_a, name_b, a.shape, b.shape, relative, largest, sqnr, parted)


class _Graph:
    """A graph, fed with one image."""

    def __init__(self, model: ir.Model, side: str, given: Values) -> None:
        self._side, self._model = side, model
        inputs = [value for value in model.graph.inputs if not value.is_initializer()]
        if len(inputs) != 1:
            raise ArtifactError(f"{side} has {len(inputs)} inputs", "one input, an image")
        self._feeds = {str(inputs[0].name): given}
        self.tensors = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)

    def run(self, names: Sequence[str] | None = None) -> Iterator[tuple[str, Values]]:
        """Yield the tensors ``names``, None for all that nodes compute, as they are computed."""
        try:
            wanted = list(computed(self._model)) if names is None else names
            yield from Stepwise(self._model, wanted).run(self._feeds)
        except DabnetError:
            raise
        except Exception as error:  # onnxruntime raises classes of its own for each status
            given = f"{self._side} does not run on the image ({first_line(error)})"
            raise ArtifactError(given, "a graph that takes what its manifest says") from error

    def values(self, names: Sequence[str]) -> list[Values]:
        """The tensors ``names``: constants from the file, the others from a run."""
        constants = {name: self.tensors[name].const_value for name in names}
        found = {name: tensor.numpy() for name, tensor in constants.items() if tensor is not None}
        found |= self._feeds
        if missing := [name for name in names if name not in found]:
            found |= self.run(missing)
        return [found[name] for name in names]


def _parting(tensor: str, a: _Graph, b: _Graph, tolerance: float) -> Parting:
    node_a, node_b = (graph.tensors[tensor].producer() for graph in (a, b))
    assert node_a is not None
    assert node_b is not None
    reads_a, reads_b = ([v.name if v else "" for v in node.inputs] for node in (node_a, node_b))
    if node_a.op_type == node_b.op_type and len(reads_a) == len(reads_b):
        pairs = [(str(x), str(y)) for x, y in zip(reads_a, reads_b, strict=True) if x and y]
    else:  # a fused node reads in other places: its inputs are matched by name
        pairs = [(str(x), str(x)) for x in reads_a if x in b.tensors]
    values_a, values_b = a.values([x for x, _ in pairs]), b.values([y for _, y in pairs])
    inputs = tuple(
        difference(x, y, read_a, read_b, tolerance)
        for (x, y), read_a, read_b in zip(pairs, values_a, values_b, strict=True)
        if _is_float(read_a) and _is_float(read_b)
    )
    label_a, label_b = (f"{node_name(node)} ({node.op_type})" for node in (node_a, node_b))
    return Parting(tensor, label_a, label_b, inputs)
