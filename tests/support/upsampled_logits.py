"""Graphs of a network's head, logits for them, and the comparison of two results."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from dabnet.head import LARGEST
from tests.support.pass_graphs import Array, GraphOf, run


def upsampled(
    shape: tuple[int, ...],
    scales: tuple[float, float],
    cast: int = 0,
    kind: int = TensorProto.FLOAT,
    confidence: bool = False,
    **resize: str,
) -> onnx.ModelProto:
    """Logits (N, K, h, w) → classes at ``scales`` times the size, and their confidence."""
    graph = GraphOf(shape, kind=kind)
    factors = graph.constant(np.array([1, 1, *scales], np.float32))
    graph.node("Resize", ["x", "", factors], "large", **{"mode": "linear", **resize})
    graph.node("ArgMax", ["large"], "y" if not cast else "classes", axis=1, keepdims=0)
    if cast:
        graph.node("Cast", ["classes"], "y", to=cast)
    if not confidence:
        return graph.model("y", kind=cast or TensorProto.INT64)
    most = graph.node("ReduceMax", ["large"], "most", axes=[1], keepdims=1)
    below = graph.node("Exp", [graph.node("Sub", ["large", most], "below")], "shares")
    axes = graph.constant(np.array([1], np.int64))
    total = graph.node("ReduceSum", [below, axes], "total", keepdims=0)
    real = np.float16 if kind == TensorProto.FLOAT16 else np.float32
    scale = graph.constant(np.array(255, real))
    graph.node("Mul", [graph.node("Reciprocal", [total], "largest"), scale], "scaled")
    graph.node("Cast", [graph.node("Round", ["scaled"], "rounded")], "confidence", to=cast)
    return graph.model("y", "confidence", kind=cast)


def patches(random: np.random.Generator, shape: tuple[int, ...], smooth: int) -> Array:
    """Logits where one class leads in each square of ``smooth`` values."""
    n, k, h, w = shape
    leading = random.integers(0, k, (n, -(-h // smooth), -(-w // smooth)))
    spread = leading.repeat(smooth, 1).repeat(smooth, 2)[:, None, :h, :w]
    lead = 4.0 * (np.arange(k)[:, None, None] == spread)
    return (random.normal(size=shape) + lead).astype(np.float32)


def enlarged(x: Array, scales: tuple[int, int], **resize: str) -> Array:
    """Logits (N, K, h, w) at ``scales`` times the size."""
    graph = GraphOf(x.shape)
    factors = graph.constant(np.array([1, 1, *scales], np.float32))
    graph.node("Resize", ["x", "", factors], "y", **{"mode": "linear", **resize})
    (large,) = run(graph.model("y"), x)
    return large


def assert_confidence(x: Array, scales: tuple[int, int], found: Array, **resize: str) -> None:
    """Rounded from that of the definition, which logits equal but for rounding move a little."""
    large = enlarged(x, scales, **resize).astype(np.float64)
    exact = LARGEST / np.exp(large - large.max(axis=1, keepdims=True)).sum(axis=1)
    assert found.shape == exact.shape
    assert np.abs(found - exact).max() <= 0.5 + LARGEST * rounding(x)


def rounding(x: Array) -> float:
    """By how much two ways to enlarge the logits x may differ in float32."""
    return float(2e-6 * max(1.0, np.abs(x).max()))


def assert_same_mask(
    x: Array, scales: tuple[int, int], found: Array, expected: Array, **resize: str
) -> None:
    """The same class at each pixel, or two whose logits there are equal but for rounding."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    large = enlarged(x, scales, **resize)
    chosen, best = (
        np.take_along_axis(large, mask[:, None].astype(np.int64), 1) for mask in (found, expected)
    )
    assert np.abs(chosen - best).max() <= rounding(x)
