"""Changes to a graph: insertion and replacement of nodes, constants, names that are free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes import common

from dabnet.graph.facts import FloatArray, array, inferred, is_op, static_shape

SLICE_END = np.iinfo(np.int64).max
"""End of a Slice that takes all that is left."""

# Operators by which exporters compute sizes, pads and the like.
_OF_SHAPES = (
    *("Add", "Cast", "Concat", "ConstantOfShape", "Div", "Gather", "Mul", "Reshape", "Slice"),
    *("Squeeze", "Sub", "Transpose", "Unsqueeze"),
)


class Names:
    """The names in a graph, and further ones that are free."""

    def __init__(self, graph: ir.Graph) -> None:
        self._taken = set(ir.convenience.create_value_mapping(graph))

    def fresh(self, wish: str) -> str:
        """Take ``wish``, or ``wish_2`` and so on if the graph has it already."""
        name, number = wish, 1
        while name in self._taken:
            number += 1
            name = f"{wish}_{number}"
        self._taken.add(name)
        return name


def add_constant(graph: ir.Graph, name: str, values: NDArray[Any]) -> ir.Value:
    """Register an initializer of a name that is free."""
    value = ir.val(name, const_value=ir.tensor(np.array(values, order="C"), name=name))
    graph.register_initializer(value)
    return value


class Insertion:
    """Adds nodes to a graph in front of ``anchor``, named after the value that they replace.

    Args:
        anchor: the node before which everything is inserted.
        base: prefix of the new values' names.
    """

    def __init__(self, anchor: ir.Node, base: str) -> None:
        assert isinstance(anchor.graph, ir.Graph)
        self._graph, self._anchor, self._base = anchor.graph, anchor, base
        self._number = 0

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, Any] | None = None,
    ) -> ir.Value:
        """Insert one node of one output and return that output."""
        name = self._name(op_type.lower())
        node = ir.node(op_type, inputs, attributes, outputs=[ir.Value(name=name)], name=name)
        self._graph.insert_before(self._anchor, node)
        return node.outputs[0]

    def constant(self, values: NDArray[Any], what: str) -> ir.Value:
        """Register an initializer; float64 is stored as float32."""
        if values.dtype == np.float64:
            values = values.astype(np.float32)
        return add_constant(self._graph, self._name(what), values)

    def conv(
        self,
        x: ir.Value,
        weight: FloatArray,
        bias: FloatArray | None = None,
        attributes: dict[str, Any] | None = None,
    ) -> ir.Value:
        """Insert a Conv with constant weights (O, I/group, rows, columns)."""
        inputs = [x, self.constant(weight.astype(np.float32), "weight")]
        if bias is not None:
            inputs.append(self.constant(bias.astype(np.float32), "bias"))
        shape = {"kernel_shape": list(weight.shape[2:])}
        return self.op("Conv", inputs, {**shape, **(attributes or {})})

    def scale_channels(
        self, x: ir.Value, scale: FloatArray, bias: FloatArray | None = None
    ) -> ir.Value:
        """``scale[c] * x + bias[c]`` as a depthwise 1x1 convolution of a (N, C, H, W) tensor."""
        return self.conv(x, scale.reshape(-1, 1, 1, 1), bias, {"group": len(scale)})

    def _name(self, what: str) -> str:
        """A name that no initializer has, nor, with one ``base`` per place, any other node."""
        while True:
            self._number += 1
            name = f"{self._base}/{what}_{self._number}"
            if name not in self._graph.initializers:
                return name


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let every reader of ``old`` read ``new``, which takes its name; drop the node behind ``old``.

    Names of tensors outlive the passes, so that two graphs can be compared tensor by tensor.
    """
    new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name, new.name = None, old.name
    remove(old.producer())


def remove(node: ir.Node | None) -> None:
    """Drop a node whose outputs nothing reads; one that is gone already stays so."""
    if node is not None and node.graph is not None:
        node.graph.remove(node, safe=True)


def tidy(model: ir.Model) -> ir.Model:
    """Drop what no output needs, and infer the shapes again."""
    common.RemoveUnusedNodesPass()(model)
    for value in [v for node in model.graph for v in node.outputs if not v.is_graph_output()]:
        value.shape = None  # inferred from the graph as it is now
    return common.ShapeInferencePass()(model).model


def fold_shapes(model: ir.Model) -> ir.Model:
    """Return a copy in which what constants and known sizes decide, such as ``sizes``, is constant.

    Exporters compute it by nodes, behind which shape inference may know no shape.
    """
    decided = True
    while decided:  # what was decided lets inference know further shapes
        model, decided = inferred(model), False
        names = Names(model.graph)
        for node in list(model.graph):
            values = _decided(node)
            if values is not None:
                name = names.fresh(f"{node.outputs[0].name}/known")
                node.outputs[0].replace_all_uses_with(add_constant(model.graph, name, values))
                decided = True
        common.RemoveUnusedNodesPass()(model)
    return tidy(model)


def _decided(node: ir.Node) -> NDArray[Any] | None:
    """The integers that a node computes if they are the same in each call; else None."""
    if is_op(node, "Shape"):
        shape, how = static_shape(node.inputs[0]), node.attributes
        return None if shape is None else np.array(shape)[how.get_int("start", 0) :]
    if not is_op(node, *_OF_SHAPES) or node.outputs[0].is_graph_output():
        return None
    given = {str(value.name): array(value) for value in node.inputs if value is not None}
    if not all(values is not None and values.dtype == np.int64 for values in given.values()):
        return None
    (result,) = ReferenceEvaluator(ir.to_proto(node)).run(None, given)
    return np.asarray(result)


def scale_and_shift(norm: ir.Node) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """A BatchNormalization as ``scale[c] * x + shift[c]``, float64 (C,); None if not constant.

    Source: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html
    """
    constants = [array(value) for value in norm.inputs[1:5]]
    training = bool(norm.attributes.get_int("training_mode", 0))
    if training or any(c is None for c in constants):
        return None
    gamma, beta, mean, variance = (np.asarray(c, np.float64) for c in constants)
    scale = gamma / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
    return scale, beta - mean * scale


def conv_constants(conv: ir.Node) -> tuple[FloatArray, FloatArray | None] | None:
    """The weights (O, I/group, …) and the bias (O,) of a Conv; None unless both are constant."""
    found = [array(value) for value in conv.inputs[1:] if value is not None]
    known = [values for values in found if values is not None]
    if not known or len(known) < len(found):
        return None
    return known[0], known[1] if len(known) > 1 else None
