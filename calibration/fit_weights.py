"""Int8 weights and biases fitted to what each convolution should compute from its rounded input.

Rounding each weight to the nearest level is best for each weight, not for the sum that a
convolution forms: its inputs are correlated, and errors of neighbouring weights can cancel. Here,
per output channel, weights w and bias b are sought that minimise Σ (y - w·p - b)² over all
positions of some images, where p is the patch of the rounded input and y the FP32 output:

1. least squares in real numbers, held to the FP32 weights by a damping term. It also makes up, as
   far as a linear map can, for the rounding and clipping of the input;
2. weights are rounded one after the other, and each time those not yet rounded take over what the
   error does to the output (GPTQ);
3. the bias takes the mean error (bias correction).

A channel for which nearest rounding happens to be better keeps it.

Sources: Frantar et al., GPTQ, ICLR 2023 (arXiv 2210.17323), sections 3.2 and 3.3; Nagel et al. 2019
(arXiv 1906.04721), section 4.2, for the bias. Unlike AdaRound (arXiv 2004.10568) this is a closed
form: no learning rate, the same result every time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from calibration.collect import Image
from calibration.conv_moments import Moments, QuantizedConv, collect_moments, quantized_convs
from calibration.ranges import LEVELS
from dabnet.errors import BuildError, InputError
from dabnet.graph.editing import add_constant
from dabnet.graph.facts import array, is_op, layer_name, nodes_of, source

# Held to the FP32 weights with this share of the mean energy of an input: directions in which the
# calibration images hardly vary would be fitted to noise.
_DAMPING = 1e-3

_Array = NDArray[np.float64]


def fit_weights(
    model: ir.Model,
    quantized: ir.Model,
    images: Iterable[Image],
    *,
    progress: Callable[[], None] = lambda: None,
) -> tuple[ir.Model, list[str]]:
    """Return a copy of the int8 model with fitted weights and biases, and what changed.

    Scales stay as they are. A convolution without bias gets one. Each convolution is fitted by
    itself, as if all before it were FP32: a float layer more or less changes no other.

    Args:
        model: the FP32 graph that was quantised. It is not modified.
        quantized: what ``calibration.qdq.insert_qdq`` made of it. It is not modified.
        images: name and uint8 (H, W, 3) or (N, H, W, 3), RGB, 0…255, of the training split; read
            once, one at a time. 16 suffice.
        progress: called after each item of ``images``.

    Returns:
        The model, and a line for each int8 convolution: the ratio of its output to its error in
        dB, before and after, or why it was left.

    Raises:
        MissingPackage: onnxruntime is not installed.
        InputError: there are no images, or one does not fit the graph.
        BuildError: an activation is NaN or infinite.
    """
    result = quantized.clone()
    convs, lines = quantized_convs(model, result)
    for conv, sums in zip(convs, collect_moments(model, convs, images, progress), strict=True):
        _require_images(conv, sums)
        nearest = array(conv.levels)
        assert nearest is not None
        levels, biases, before, after = fit(conv, nearest, sums)
        conv.levels.const_value = ir.tensor(levels, name=conv.levels.name)
        name = f"{conv.output}_bias"  # of its own: another may read the one it had
        while name in result.graph.initializers:
            name += "_fitted"
        _set_bias(conv.node, add_constant(result.graph, name, biases))
        lines.append(f"{layer_name(conv.node)}: {before:.1f} → {after:.1f} dB")
    common.RemoveUnusedNodesPass()(result)  # the biases that were replaced
    return result, lines


def fit(
    conv: QuantizedConv, nearest: NDArray[np.int8], sums: Moments
) -> tuple[NDArray[np.int8], NDArray[np.float32], float, float]:
    """Return int8 weights like ``nearest``, float32 biases (O,), and dB before and after."""
    scales = conv.weight_scales.astype(np.float64).reshape(*sums.energy.shape, 1)
    old = sums.fp32.copy()
    old[..., :-1] = nearest.reshape(old[..., :-1].shape) * scales
    new = np.stack([_fitted(sums, scales[group], group) for group in range(conv.window.group)])
    before, after = sums.squared_error(old), sums.squared_error(new)
    new[after >= before] = old[after >= before]
    levels = np.rint(new[..., :-1] / scales).astype(np.int8)
    return (
        levels.reshape(nearest.shape),
        new[..., -1].ravel().astype(np.float32),
        _decibels(sums.energy, before),
        _decibels(sums.energy, np.minimum(before, after)),
    )


def _fitted(sums: Moments, scales: _Array, group: int) -> _Array:
    """Return weights that are multiples of ``scales`` (O, 1), with the bias last: (O, K + 1)."""
    fp32, count = sums.fp32[group], sums.patches[group, -1, -1]
    mean = sums.patches[group, -1, :-1] / count  # (K,), of the patches
    lack = sums.lacks[group, :, -1] / count  # (O,)
    covariance = sums.patches[group, :-1, :-1] / count - np.outer(mean, mean)
    cross = sums.lacks[group, :, :-1] / count - np.outer(lack, mean)
    damping = _DAMPING * np.diag(covariance).mean()
    if damping > 0:
        covariance[np.diag_indices_from(covariance)] += damping
        target = fp32[:, :-1] + np.linalg.solve(covariance, cross.T).T
        levels = _rounded_in_turn(target, scales[:, 0], covariance)
    else:  # an input that never changes
        levels = np.rint(fp32[:, :-1] / scales)
    weights = levels * scales
    biases = fp32[:, -1] + lack - (weights - fp32[:, :-1]) @ mean
    fitted: _Array = np.column_stack([weights, biases])
    return fitted


def _rounded_in_turn(weights: _Array, scales: _Array, covariance: _Array) -> _Array:
    """Round weights (O, K) to levels in [-127, 127], those of the largest inputs first.

    The inverse's Cholesky factor U holds, in row i, how the weights after i take over an error of
    weight i: GPTQ, section 3.3, step 3 and equation 2.
    """
    order = np.argsort(-np.diag(covariance), kind="stable")
    rest = weights[:, order]
    inverse = np.linalg.inv(covariance[np.ix_(order, order)])
    factor = np.linalg.cholesky((inverse + inverse.T) / 2).T
    levels = np.empty_like(rest)
    for index in range(len(order)):
        levels[:, index] = np.clip(np.rint(rest[:, index] / scales), -LEVELS, LEVELS)
        error = (rest[:, index] - levels[:, index] * scales) / factor[index, index]
        rest[:, index:] -= np.outer(error, factor[index, index:])
    return levels[:, np.argsort(order)]


def _require_images(conv: QuantizedConv, sums: Moments) -> None:
    if not sums.patches[0, -1, -1]:
        raise InputError("no images to fit weights to", "at least one of the train split")
    if not (np.isfinite(sums.energy).all() and np.isfinite(sums.patches).all()):
        raise BuildError(
            f"NaN or Inf before {conv.output!r}",
            "finite activations in FP32",
            "check the checkpoint: its training may have diverged",
        )


def _decibels(energy: _Array, error: _Array) -> float:
    """The energy of all outputs over that of the error."""
    total, lost = float(energy.sum()), float(error.sum())
    return float(10 * np.log10(total / lost)) if total > 0 and lost > 0 else float("inf")


def _set_bias(conv: ir.Node, bias: ir.Value) -> None:
    conv.resize_inputs(3)
    conv.replace_input_with(2, bias)


def with_weights_of(quantized: ir.Model, fitted: ir.Model) -> ir.Model:
    """Return a copy of ``quantized`` with the weights and biases that ``fitted`` has.

    ``fit_weights`` fits each convolution by itself, so that its result serves each choice of the
    convolutions that stay in float.

    Args:
        quantized: Q/DQ at some convolutions of a graph, by ``insert_qdq``. It is not modified.
        fitted: Q/DQ at these and perhaps others, with fitted weights.
    """
    result = quantized.clone()
    better = {conv.outputs[0].name: (conv, levels) for conv, levels in _int8_convs(fitted)}
    for conv, levels in _int8_convs(result):
        if conv.outputs[0].name not in better:
            continue
        theirs, their_levels = better[conv.outputs[0].name]
        levels.const_value = their_levels.const_value
        bias = theirs.inputs[2] if len(theirs.inputs) > 2 else None
        values = array(bias)
        if bias is not None and values is not None:
            name = str(bias.name)
            known = result.graph.initializers.get(name)
            _set_bias(conv, known or add_constant(result.graph, name, values))
    common.RemoveUnusedNodesPass()(result)  # the biases of before
    return result


def _int8_convs(model: ir.Model) -> list[tuple[ir.Node, ir.Value]]:
    """Each Conv whose weights are dequantised, with their int8 initializer."""
    found = ((conv, source(conv, 1)) for conv in nodes_of(model.graph, "Conv"))
    return [
        (conv, node.inputs[0])
        for conv, node in found
        if node is not None and is_op(node, "DequantizeLinear") and node.inputs[0] is not None
    ]
