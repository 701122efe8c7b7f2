"""The gain of int8 on a card, layer by layer: a model of the whole plan, not a measurement.

The plan is the one that TensorRT-RTX 1.7.1 makes of a graph for ``tensorrt-rtx``, by these rules,
read from its plans (a test compares both):

- a dense convolution in float is one kernel with the pointwise work behind it;
- one in int8 reads int8, writes the type of the rest, and stands alone;
- so does a convolution whose result is rounded: no kernel with a convolution writes int8;
- all other work is a kernel per place between convolutions: depthwise convolutions, pools, Concat,
  activations, rounding to int8, the head.

Each kernel reads its tensors once and writes what others read, int8 and float forms apart. The
zeros that pad an int8 depthwise convolution are left out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import onnx_ir as ir

from dabnet.graph.facts import array, inferred, is_conv, layer_name, layers_of
from dabnet.graph.roofline import BYTES, Kernel, elements
from export.cards import Card

# Work on each pixel alone, which a kernel with a convolution takes in.
_POINTWISE = {"Add", "BatchNormalization", "Max", "Min", "Mul", "PRelu", "Relu", "Sub"}

_Form = tuple[ir.Value, bool]
"""A tensor, and whether it is rounded to int8."""


@dataclass(slots=True)
class _Draft:
    """A kernel that is being made."""

    conv: ir.Node | None = None
    is_int8: bool = False
    reads: set[_Form] = field(default_factory=set)

    def takes_in(self, node: ir.Node, is_rounded: bool) -> bool:
        """Whether it computes a node that reads its result, and whose own is rounded or not."""
        if self.conv is None:
            return True
        return not self.is_int8 and node.op_type in _POINTWISE and not is_rounded


class CostModel:
    """Seconds of a network, for any choice of convolutions that stay in float.

    Args:
        model: the FP32 graph.
        layers: convolutions that the placement rounds; all others are in float in each choice.
        card: the GPU to model.
        example: (batch, height, width) for the sides that a call chooses.
        rest: type of what is beside int8; None: that of the card, which a choice without int8 has.

    Raises:
        ArtifactError: a size cannot be inferred.
    """

    def __init__(
        self,
        model: ir.Model,
        layers: Collection[str],
        card: Card,
        example: tuple[int, int, int],
        rest: str | None = None,
    ) -> None:
        self.card, self.layers, self._rest = card, tuple(layers), rest or card.rest
        self._graph = inferred(model, example).graph
        self._layers = layers_of(self._graph)
        self._names = {node: layer_name(node) for node in self._graph if is_conv(node)}

    def seconds(self, float_layers: Collection[str]) -> float:
        """All kernels, with ``float_layers`` and those that the placement leaves in float."""
        return self.card.seconds(self.kernels(float_layers))

    def moved_bytes(self, float_layers: Collection[str]) -> int:
        """Memory traffic of such a choice, weights included."""
        return sum(kernel.traffic_bytes for kernel in self.kernels(float_layers))

    def gain(self, layer: str) -> float:
        """Seconds that int8 saves in ``layer`` if every other is int8; below 0: it costs."""
        return self.seconds((layer,)) - self.seconds(())

    def kernels(self, float_layers: Collection[str]) -> tuple[Kernel, ...]:
        """The kernels of one call, in the order in which they begin."""
        int8 = set(self.layers) - set(float_layers)
        rounded = {conv.inputs[0] for conv, name in self._names.items() if name in int8}
        drafts: list[_Draft] = []
        owners: dict[_Form, int] = {}
        for node in self._graph:
            data = [v for v in node.inputs if v is not None and (v, False) in owners]
            data += [
                v for v in node.inputs if v is not None and v.is_graph_input() and array(v) is None
            ]
            if not data:
                continue  # of constants
            in_int8 = self._names.get(node) in int8
            reads = {(value, in_int8) for value in data}
            last = max(owners.get((value, False), -1) for value in data)
            if is_conv(node) and (in_int8 or node.attributes.get_int("group", 1) == 1):
                number = len(drafts)
                drafts.append(_Draft(node, in_int8))
            else:
                number = _kernel_of(node, reads, last, drafts, node.outputs[0] in rounded)
            drafts[number].reads |= reads
            for value in node.outputs:
                owners[value, False] = number
                if value in rounded:
                    if drafts[number].conv is not None:  # rounded by a kernel behind it
                        drafts.append(_Draft(reads={(value, False)}))
                    owners[value, True] = number if drafts[number].conv is None else len(drafts) - 1
        return self._summed(drafts, owners, self._rest if int8 else self.card.rest)

    def _summed(
        self, drafts: list[_Draft], owners: dict[_Form, int], rest: str
    ) -> tuple[Kernel, ...]:
        written: dict[_Form, int] = {}
        for number, draft in enumerate(drafts):
            for form in draft.reads:
                if owners.get(form, number) != number:
                    written[form] = owners[form]
        for value in self._graph.outputs:
            written[value, False] = owners[value, False]
        traffic = [0] * len(drafts)
        for form, number in written.items():
            traffic[number] += _bytes(form, rest)
        made = []
        for number, draft in enumerate(drafts):
            outside = (form for form in draft.reads if owners.get(form) != number)
            moved = traffic[number] + sum(_bytes(form, rest) for form in outside)
            precision = "int8" if draft.is_int8 else rest
            work = 0
            if draft.conv is not None:
                layer = self._layers[draft.conv]
                work, moved = layer.multiply_adds or 0, moved + layer.parameters * BYTES[precision]
            name = self._names[draft.conv] if draft.conv is not None else ""
            made.append(Kernel(name, precision, work, moved))
        return tuple(made)


def _bytes(form: _Form, rest: str) -> int:
    value, rounded = form
    width = BYTES["int8" if rounded else rest]
    if not rounded and value.dtype not in (None, ir.DataType.FLOAT):
        width = int(value.dtype.itemsize)
    return width * elements(value)


def _kernel_of(
    node: ir.Node, reads: set[_Form], last: int, drafts: list[_Draft], is_rounded: bool
) -> int:
    """Number of the kernel that computes a node behind kernel ``last``; a new one if none does."""
    if last >= 0 and drafts[last].takes_in(node, is_rounded):
        return last
    beside = (n for n, d in enumerate(drafts) if n > last and d.conv is None and d.reads & reads)
    number = next(beside, len(drafts))
    if number == len(drafts):
        drafts.append(_Draft())
    return number
