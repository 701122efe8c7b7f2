"""The pooled image divided by 32 before it joins the features, so that one int8 scale suits both.

Before → after, for DABNet's pooled image p (±150, since inputs are not divided by 255) and features
f (±2 to ±30)::

    p ─▶ AveragePool ─┐
    f ────────────────┴▶ Concat ─▶ BatchNormalization(γ, β, μ, σ²)

    p ─▶ AveragePool ─▶ Mul 1/32 ─┐
    f ────────────────────────────┴▶ Concat ─▶ BatchNormalization: 32·γ and μ/32 for p's channels

32 is a power of two, so FP32 gives the same bits. Pools behind the first inherit its factor.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dabnet.graph.editing import Insertion
from dabnet.graph.facts import array, channels, is_op, nodes_of

FACTOR = 32.0


def scale_image(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """Scale each image that average pools bring to Concats which only BatchNormalization reads."""
    changed = []
    for pool in [p for p in nodes_of(model.graph, "AveragePool") if _is_first(p)]:
        pooled = _chain(pool)
        readers = dict.fromkeys(node for value in pooled for node in value.consumers())
        joins = [node for node in readers if is_op(node, "Concat")]
        if not joins or not _all_absorb(pooled, joins):
            continue
        for join in joins:
            for norm in join.outputs[0].consumers():
                _absorb(norm, join, pooled)
        value = pool.outputs[0]
        uses = list(value.uses())
        before = Insertion(uses[0].node, f"{value.name}/scaled")
        small = before.op("Mul", [value, before.constant(np.array(1 / FACTOR), "factor")])
        for node, index in uses:
            node.replace_input_with(index, small)
        changed.append(
            f"{value.name}: 1/{FACTOR:g}, taken back by {len(joins)} BatchNormalizations"
        )
    model.graph.sort()
    return model, changed


def _is_first(pool: ir.Node) -> bool:
    """Whether no average pool comes before this one."""
    return not any(is_op(source, "AveragePool") for source in pool.predecessors())


def _chain(pool: ir.Node) -> list[ir.Value]:
    """The outputs of ``pool`` and of the average pools that read it, at any depth."""
    values = [pool.outputs[0]]
    for value in values:
        values += [n.outputs[0] for n in value.consumers() if is_op(n, "AveragePool")]
    return values


def _all_absorb(pooled: list[ir.Value], joins: list[ir.Node]) -> bool:
    """Whether each reader is a pool or one of ``joins``, and constant norms alone read these."""
    for value in pooled:
        readers = value.consumers()
        if value.is_graph_output() or not all(is_op(n, "AveragePool", "Concat") for n in readers):
            return False
    for join in joins:
        norms = join.outputs[0].consumers()
        if join.outputs[0].is_graph_output() or not norms:
            return False
        if join.attributes.get_int("axis", 0) != 1 or None in map(channels, join.inputs):
            return False
        constants = [array(value) for norm in norms for value in norm.inputs[1:4]]
        if not all(is_op(norm, "BatchNormalization") for norm in norms):
            return False
        if any(constant is None for constant in constants):
            return False
    return True


def _absorb(norm: ir.Node, join: ir.Node, pooled: list[ir.Value]) -> None:
    """32·γ and μ/32 in the channels that come from ``pooled``."""
    gamma, mean = (np.array(array(norm.inputs[index])) for index in (1, 3))
    start = 0
    for part in join.inputs:
        end = start + (channels(part) or 0)
        if part in pooled:
            gamma[start:end] *= FACTOR
            mean[start:end] /= FACTOR
        start = end
    before = Insertion(norm, f"{norm.outputs[0].name}/scaled")
    norm.replace_input_with(1, before.constant(gamma, "weight"))
    norm.replace_input_with(3, before.constant(mean, "mean"))
