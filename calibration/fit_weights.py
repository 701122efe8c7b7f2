"""Int8 weights and biases fitted to the FP32 output of each convolution, given its rounded input.

Rounding each weight to the nearest level is best for each weight, not for the sum that a
convolution forms: its inputs are correlated, and errors of neighbouring weights can cancel. Here,
per output channel, weights w and bias b are sought that minimise Σ (y - w·p - b)² over all
positions of some images, where p is the patch of the rounded input and y the FP32 output:

1. least squares in real numbers, held to the FP32 weights by a damping term. It also makes up, as
   far as a linear map can, for the rounding and clipping of the input;
2. weights are rounded one after the other, and each time those not yet rounded make up for the
   error in the output (GPTQ);
3. the bias takes the mean error (bias correction).

A channel for which nearest rounding happens to be better keeps it.

Sources: Frantar et al., GPTQ, ICLR 2023 (arXiv 2210.17323), sections 3.2 and 3.3; Nagel et al. 2019
(arXiv 1906.04721), section 4.2, for the bias. Unlike AdaRound (arXiv 2004.10568) this is a closed
form: no learning rate, the same result every time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from calibration.collect import Image
from calibration.conv_moments import Moments, QuantizedConv, collect_moments, quantized_convs
from calibration.ranges import LEVELS
from dabnet.errors import BuildError, InputError
from dabnet.graph.editing import add_constant
from dabnet.graph.facts import nodes_of, source

# Held to the FP32 weights with this share of the mean energy of an input: directions in which the
# calibration images hardly vary would be fitted to noise.
_DAMPING = 1e-3

_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted weights of one convolution.

    Attributes:
        levels: int8 of the shape of its weights, in units of their scales.
        bias: float32 (O,).
    """

    levels: NDArray[np.int8]
    bias: NDArray[np.float32]


def fit_weights(
    model: ir.Model,
    quantized: ir.Model,
    images: Iterable[Image],
    *,
    progress: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Fit], list[str]]:
    """Fit weights and biases of an int8 graph, for ``with_weights``.

    Scales stay as they are. A convolution without bias gets one. Each convolution is fitted by
    itself, as if all before it were FP32: a float layer more or less changes no other, and the
    result serves each choice of those that stay in float.

    Args:
        model: the FP32 graph that was quantised. It is not modified.
        quantized: that graph with Q/DQ, by ``calibration.qdq.insert_qdq``. It is not modified.
        images: name and uint8 (H, W, 3) or (N, H, W, 3), RGB, 0…255, of the training split; read
            once, one at a time. 16 suffice.
        progress: called after each item of ``images``.

    Returns:
        The fits, by the name of the tensor that the convolution computes, and a line for each int8
        convolution: the ratio of its output to its error in dB, before and after, or why it was
        left.

    Raises:
        MissingPackage: onnxruntime is not installed.
        InputError: there are no images, or one does not fit the graph.
        BuildError: an activation is NaN or infinite.
    """
    convs, lines = quantized_convs(model, quantized)
    fits = {}
    for conv, sums in zip(convs, collect_moments(model, convs, images, progress), strict=True):
        _require_images(conv, sums)
        fits[conv.output], before, after = fit(conv, sums)
        lines.append(f"{conv.layer}: {before:.1f} → {after:.1f} dB")
    return fits, lines


def with_weights(quantized: ir.Model, fits: Mapping[str, Fit]) -> ir.Model:
    """Return a copy of an int8 graph of ``insert_qdq`` with the weights and biases of ``fits``."""
    result = quantized.clone()
    for conv in nodes_of(result.graph, "Conv"):
        name, dequantize = str(conv.outputs[0].name), source(conv, 1)
        if name in fits and dequantize is not None and dequantize.inputs[0] is not None:
            levels = dequantize.inputs[0]
            levels.const_value = ir.tensor(fits[name].levels, name=levels.name)
            bias = f"{name}_bias"  # of its own: another may read the one it had
            while bias in result.graph.initializers:
                bias += "_fitted"
            conv.resize_inputs(3)
            conv.replace_input_with(2, add_constant(result.graph, bias, fits[name].bias))
    common.RemoveUnusedNodesPass()(result)  # the biases that were replaced
    return result


def fit(conv: QuantizedConv, sums: Moments) -> tuple[Fit, float, float]:
    """Return the fit of one convolution, and dB before and after."""
    scales = conv.weight_scales.astype(np.float64).reshape(*sums.energy.shape, 1)
    old = sums.fp32.copy()
    old[..., :-1] = conv.levels.reshape(old[..., :-1].shape) * scales
    new = np.stack([_fitted(sums, scales[group], group) for group in range(conv.window.group)])
    before, after = sums.squared_error(old), sums.squared_error(new)
    new[after >= before] = old[after >= before]
    levels = np.rint(new[..., :-1] / scales).astype(np.int8)
    found = Fit(levels.reshape(conv.levels.shape), new[..., -1].ravel().astype(np.float32))
    better = np.minimum(before, after)
    return found, _decibels(sums.energy, before), _decibels(sums.energy, better)


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
