"""What every pass needs to read and to change a graph, on top of onnx_ir.

Source: https://onnx.ai/ir-py/ (``onnx_ir.Graph``, ``Value``, ``Node``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]


class Insertion:
    """Adds nodes to a graph in front of ``anchor``, named after what they replace.

    Args:
        anchor: the node before which everything is inserted.
        base: prefix of the new values' names.
    """

    def __init__(self, anchor: ir.Node, base: str) -> None:
        assert anchor.graph is not None
        self._graph: Any = anchor.graph
        self._anchor = anchor
        self._base = base
        self._number = 0

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, Any] | None = None,
    ) -> ir.Value:
        """Insert one node of one output and return that output."""
        name = self._name(op_type.lower())
        node = ir.node(op_type, inputs, attributes, name=name)
        node.outputs[0].name = name
        self._graph.insert_before(self._anchor, node)
        return node.outputs[0]

    def constant(self, values: NDArray[Any], what: str) -> ir.Value:
        """Register an initializer; floats of any width are stored as float32."""
        if np.issubdtype(values.dtype, np.floating):
            values = values.astype(np.float32)
        name = self._name(what)
        value = ir.Value(name=name, const_value=ir.tensor(np.array(values, order="C"), name=name))
        value.type = ir.TensorType(ir.DataType.from_numpy(values.dtype))
        value.shape = ir.Shape(values.shape)
        self._graph.register_initializer(value)
        return value

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
        weight = scale.reshape(-1, 1, 1, 1)
        return self.conv(x, weight, bias, {"group": len(scale)})

    def _name(self, what: str) -> str:
        """A name that no initializer and, with one ``base`` a place, no other node has."""
        while True:
            self._number += 1
            name = f"{self._base}/{what}_{self._number}"
            if name not in self._graph.initializers:
                return name


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let every reader of ``old`` read ``new``, which takes its name; drop the node behind ``old``.

    Names of tensors outlive the passes, so that two graphs can be compared tensor by tensor.
    """
    node = old.producer()
    assert node is not None and node.graph is not None
    new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name, new.name = None, old.name
    node.graph.remove(node, safe=True)


def array(value: ir.Value | None) -> NDArray[Any] | None:
    """The constant behind ``value``, an initializer or a Constant node; None if it is none."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def only_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads ``value`` once; None where there are more, or it is an output."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def nodes_of(graph: ir.Graph, op_type: str) -> list[ir.Node]:
    """The nodes of one operator of the standard domain, in graph order, safe to edit over."""
    return [node for node in graph if node.op_type == op_type and node.domain in ("", "ai.onnx")]


def ints(node: ir.Node, name: str, default: Sequence[int] = ()) -> tuple[int, ...]:
    """A list attribute of ``node``, or its default."""
    attribute = node.attributes.get(name)
    return tuple(default) if attribute is None else tuple(attribute.as_ints())


def integer(node: ir.Node, name: str, default: int) -> int:
    """A number attribute of ``node``, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else int(attribute.as_int())


def channels(value: ir.Value | None) -> int | None:
    """C of a (N, C, H, W) tensor; None where it is not known."""
    shape = None if value is None else value.shape
    size = shape[1] if shape is not None and len(shape) == 4 else None
    return size if isinstance(size, int) else None


def tidy(model: ir.Model) -> ir.Model:
    """Drop what no output needs, and infer the shapes again."""
    onnx_ir.passes.common.RemoveUnusedNodesPass()(model)
    for value in [v for node in model.graph for v in node.outputs if not v.is_graph_output()]:
        value.shape = None  # inferred from the graph as it is now
    return onnx_ir.passes.common.ShapeInferencePass()(model).model
