"""Graphs of a network's head, logits for them, and the comparison of two results."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from dabnet.head import confidence_of
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
    """That of the definition, in float64, but for ties of one rounding."""
    expected = confidence_of(enlarged(x, scales, **resize))
    apart = np.abs(found.astype(np.int64) - expected)
    assert found.shape == expected.shape
    assert apart.max() <= 1 and (apart == 0).mean() > 0.999


def assert_same_mask(
    x: Array, scales: tuple[int, int], found: Array, expected: Array, **resize: str
) -> None:
    """The same class at each pixel, or two whose logits there are equal but for rounding."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    large = enlarged(x, scales, **resize)
    chosen, best = (
        np.take_along_axis(large, mask[:, None].astype(np.int64), 1) for mask in (found, expected)
    )
    assert np.abs(chosen - best).max() <= 2e-6 * max(1.0, np.abs(x).max())
    assert (found == expected).mean() > 0.999
