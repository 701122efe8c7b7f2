"""Where do two ONNX graphs part? Their tensors side by side, in the order of the computation.

Tensors are matched by name, and only those that both graphs have as floats: Q/DQ pairs, and what a
pass has fused or renamed, stand in one graph alone and are passed over. The graphs run unoptimised,
so that each tensor is what the graph says and not what a fusion made of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from dabnet.errors import ArtifactError, InputError
from export.graph.tensors import StepwiseSession, computed, cpu_session, ending_at, node_label
from export.verify.masks import sqnr_db

if TYPE_CHECKING:
    from dabnet.console import ProgressBar

Values = NDArray[Any]

TOLERANCE = 1e-3

# Bytes of one graph's tensors that are alive at a time; those of unknown size count as a quarter.
BUDGET_BYTES = 128 << 20
_FLOAT_BYTES = {"tensor(float)": 4, "tensor(float16)": 2, "tensor(double)": 8}


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """One tensor of both graphs.

    Attributes:
        a, b: its names; they differ only among the inputs of a parting.
        shape_a, shape_b: e.g. (N, C, H, W).
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
    """The first tensor that differs, who computes it, and what that node reads.

    Attributes:
        tensor: its name.
        node_a, node_b: name and operator of the node that computes it in each graph.
        inputs: the float inputs of the two nodes by position (a Conv's: data, weights, bias), or
            by name where the nodes are of different operators.
    """

    tensor: str
    node_a: str
    node_b: str
    inputs: tuple[TensorDifference, ...]


@dataclass(frozen=True, slots=True)
class LayerReport:
    """What ``compare_layers`` found.

    Attributes:
        image: name of the image that both graphs ran on.
        tolerance: relative error above which a tensor counts as parted.
        tensors: matched tensors in the order of A's nodes.
        unmatched_a, unmatched_b: how many tensors stand in one graph only, or as other types.
        parting: None where no tensor exceeds the tolerance.
    """

    image: str
    tolerance: float
    tensors: tuple[TensorDifference, ...]
    unmatched_a: int
    unmatched_b: int
    parting: Parting | None

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

    def record(self) -> dict[str, Any]:
        """Plain values for JSON, under stable keys (docs/verify_inspect.md)."""
        return dataclasses.asdict(self)


def compare_layers(
    a: onnx.ModelProto,
    b: onnx.ModelProto,
    image: str,
    given: tuple[Values, Values],
    tolerance: float = TOLERANCE,
    *,
    progress: ProgressBar,
) -> LayerReport:
    """Run both graphs on one image and compare every float tensor that both have.

    Memory holds some ``BUDGET_BYTES`` of each graph's tensors at a time: the graphs run once for
    each such group, as far as the group needs.

    Args:
        a, b: graphs with one input. They are not modified.
        image: name of the image that both look at.
        given: the image as A takes it, and as B does.
        tolerance: relative error above which a tensor has parted.
        progress: shows a bar of tensors.

    Raises:
        InputError: the graphs share no tensor.
        ArtifactError: onnxruntime cannot run one of them on the image.
    """
    graphs = (_Graph(a, "A", given[0]), _Graph(b, "B", given[1]))
    sizes_a, sizes_b = graphs[0].float_tensors(), graphs[1].float_tensors()
    shared = [tensor for tensor in sizes_a if tensor in sizes_b]
    if not shared:
        raise InputError(
            "A and B share no tensor by name, so their layers cannot be matched",
            "two graphs exported from one checkpoint",
            "leave --layers out to compare their masks",
        )
    found: list[TensorDifference] = []
    with progress("comparing tensors", len(shared)) as step:
        for group in _groups(shared, sizes_a, sizes_b):
            pairs = zip(group, *(graph.values(group) for graph in graphs), strict=True)
            for tensor, values_a, values_b in pairs:
                found.append(difference(tensor, tensor, values_a, values_b, tolerance))
                step()
    first = next((tensor.a for tensor in found if tensor.parted), None)
    parting = None if first is None else _parting(first, *graphs, tolerance)
    return LayerReport(
        image,
        tolerance,
        tuple(found),
        len(sizes_a) - len(shared),
        len(sizes_b) - len(shared),
        parting,
    )


def difference(
    name_a: str, name_b: str, a: Values, b: Values, tolerance: float
) -> TensorDifference:
    """Compare two arrays in float64."""
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
    """A graph, fed with one image, whose tensors can be asked for."""

    def __init__(self, model: onnx.ModelProto, side: str, given: Values) -> None:
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        inputs = [v.name for v in model.graph.input if v.name not in self._constants]
        if len(inputs) != 1:
            raise ArtifactError(f"{side} has {len(inputs)} inputs", "one input, an image")
        self._side, self._model = side, onnx.ModelProto()
        self._model.CopyFrom(model)
        # Sides that a call chooses are fixed to the image's, so that sizes are known before a run.
        del self._model.graph.value_info[:]
        for value in self._model.graph.input:
            if value.name == inputs[0]:
                for dim, length in zip(value.type.tensor_type.shape.dim, given.shape, strict=False):
                    dim.dim_value = length
        self._feeds = {inputs[0]: given}
        self._stepwise: StepwiseSession | None = None
        self.producer = {name: node for node in model.graph.node for name in node.output if name}

    def float_tensors(self) -> dict[str, int]:
        """Bytes of each float tensor that a node computes, in the order of the nodes."""
        names = [name for name in computed(self._model) if name not in self._constants]
        session = self._session(names)
        sizes = {}
        for output in session.get_outputs():
            if output.type in _FLOAT_BYTES:
                known = output.shape and all(isinstance(side, int) for side in output.shape)
                size = math.prod(output.shape) * _FLOAT_BYTES[output.type] if known else 0
                sizes[output.name] = size or BUDGET_BYTES // 4
        if any(output.type == "tensor(float16)" for output in session.get_outputs()):
            # In one session the CPU provider computes in FP32 and drops the rounding.
            self._stepwise = StepwiseSession(self._model)
        return sizes

    def has(self, name: str) -> bool:
        """Whether ``name`` is a tensor of the graph; an input that is left out is ""."""
        return name in self.producer or name in self._constants or name in self._feeds

    def values(self, names: list[str]) -> list[Values]:
        """The tensors ``names``: constants from the file, the others from a run."""
        run = [name for name in names if name not in self._constants and name not in self._feeds]
        found = {name: numpy_helper.to_array(t) for name, t in self._constants.items()}
        found |= self._feeds
        if run:
            try:
                session = self._stepwise or self._session(run)
                found |= zip(run, session.run(run, self._feeds), strict=True)
            except Exception as error:  # onnxruntime raises classes of its own for each status
                raise ArtifactError(
                    f"{self._side} does not run on the image ({str(error).splitlines()[0][:200]})",
                    "a graph that takes what its manifest says",
                ) from error
        return [found[name] for name in names]

    def _session(self, names: list[str]) -> Any:
        return cpu_session(ending_at(self._model, names), self._side, optimised=False)


def _groups(names: list[str], a: dict[str, int], b: dict[str, int]) -> Iterator[list[str]]:
    """Split ``names`` into runs of at most ``BUDGET_BYTES`` in either graph, one at least each."""
    group: list[str] = []
    size = 0
    for name in names:
        bytes_here = max(a[name], b[name])
        if group and size + bytes_here > BUDGET_BYTES:
            yield group
            group, size = [], 0
        group.append(name)
        size += bytes_here
    yield group


def _parting(tensor: str, a: _Graph, b: _Graph, tolerance: float) -> Parting:
    node_a, node_b = a.producer[tensor], b.producer[tensor]
    if node_a.op_type == node_b.op_type and len(node_a.input) == len(node_b.input):
        places = zip(node_a.input, node_b.input, strict=True)
        pairs = [(x, y) for x, y in places if a.has(x) and b.has(y)]
    else:  # a fused node reads in other places: its inputs are matched by name
        pairs = [(x, x) for x in node_a.input if a.has(x) and b.has(x)]
    values_a, values_b = a.values([x for x, _ in pairs]), b.values([y for _, y in pairs])
    inputs = tuple(
        difference(x, y, read_a, read_b, tolerance)
        for (x, y), read_a, read_b in zip(pairs, values_a, values_b, strict=True)
        if read_a.dtype.kind == "f" and read_b.dtype.kind == "f"
    )
    return Parting(tensor, node_label(node_a), node_label(node_b), inputs)
