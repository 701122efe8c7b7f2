"""Clipping thresholds of a symmetric int8 quantiser, from histograms of |x| or from training.

The quantiser is ``clip(round(x / scale), -127, 127) * scale`` with ``scale = threshold / 127``.
A large threshold rounds coarsely, a small one clips; the methods differ in where they stop. To add
one, write a function from histogram to threshold and one line in ``_METHODS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.histogram import BINS, StreamingHistogram
from dabnet.errors import ArtifactError, InputError
from dabnet.graph.facts import nodes_of

LEVELS = 127  # -128 is left out, so that the levels are symmetric around 0
MAGNITUDES = 128  # those of |x| in int8: 0…127
PERCENTILE = 99.99
DEFAULT_METHOD = "mse"

# Candidates per block in the MSE search: 64 rows of 2,049 doubles are 1 MB, about a core's cache.
_BLOCK = 64


def symmetric_range(histogram: StreamingHistogram, method: str = DEFAULT_METHOD) -> float:
    """Return the threshold t >= 0 in the tensor's units, so that ``scale = t / 127``.

    Args:
        histogram: what calibration saw of one tensor.
        method: ``minmax``: the largest |x|, nothing is clipped; ``percentile``: 99.99 % of |x| lie
            at or below, or as many as ``percentile:99.9`` says; ``entropy``: the least KL
            divergence; ``mse``: the least expected squared error.

    Returns:
        A finite float, at most the largest |x|; 0 only if each x was 0.

    Raises:
        InputError: the method is unknown or the histogram is empty.
    """
    threshold = _threshold_of(method)
    if histogram.count == 0:
        raise InputError("a histogram without values", "at least one calibration image")
    return threshold(histogram)


def check_method(method: str) -> None:
    """Raise ``InputError`` unless this is one of ``METHODS`` or ``percentile:P``, 0 < P <= 100."""
    _threshold_of(method)


def expected_squared_error(
    histogram: StreamingHistogram, thresholds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean of (x - quantised x)², in squared units of x, for each threshold.

    Exact for values that are 0 or spread evenly within each bin: the error is integrated over it.
    Bin centres alone would be wrong as soon as a step is as small as a bin, where each centre may
    happen to lie on a level or midway between two.

    Args:
        histogram: not empty.
        thresholds: float64, (T,), all > 0.

    Returns:
        float64, (T,).
    """
    counts = histogram.counts.copy()
    used = int(np.flatnonzero(counts)[-1]) + 1
    total = counts.sum()
    counts[0] -= histogram.zeros  # 0 is a level at any scale: no error
    share = counts[:used] / total  # (B,)
    edges = np.arange(used + 1) * histogram.width  # (B+1,)
    steps = thresholds / LEVELS  # (T,)
    errors = np.empty_like(thresholds)
    for start in range(0, len(thresholds), _BLOCK):
        step = steps[start : start + _BLOCK, None]  # (block, 1)
        integral = np.diff(_integrated_error(edges / step), axis=1)  # (block, B), in steps³
        errors[start : start + _BLOCK] = (integral @ share) * step[:, 0] ** 3 / histogram.width
    return errors


def _integrated_error(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """∫₀ᵘ (v - min(round(v), 127))² dv, for u >= 0 in steps.

    Each whole step contributes ∫ r² dr over [-½, ½] = 1/12, the rest r³/3. Above the last level
    the level stays and r grows, so the clipping error needs no case of its own.
    """
    level = np.minimum(np.rint(u), LEVELS)
    rest = u - level
    integral: NDArray[np.float64] = level / 12 + rest * rest * rest / 3
    return integral


def _percentile(histogram: StreamingHistogram, percentile: float = PERCENTILE) -> float:
    """Find the bin that holds the percentile; within it the values count as evenly spread."""
    counts = histogram.counts
    cumulative = np.cumsum(counts)
    rank = percentile / 100 * histogram.count
    index = int(np.searchsorted(cumulative, rank))
    inside = (rank - (cumulative[index] - counts[index])) / counts[index]
    return min((index + float(inside)) * histogram.width, histogram.absolute_maximum)


def _mse(histogram: StreamingHistogram) -> float:
    """Try each bin edge, and the true maximum (no clipping at all).

    All of them, not a descent: with few values the error has several local minima.
    """
    largest = histogram.absolute_maximum
    if largest == 0:
        return 0.0
    edges = np.arange(1, BINS) * histogram.width
    candidates = np.append(edges[edges < largest], largest)
    return float(candidates[np.argmin(expected_squared_error(histogram, candidates))])


def entropy_threshold(histogram: StreamingHistogram) -> float:
    """Return the threshold with the least KL divergence after clipping and rounding.

    S. Migacz, "8-bit Inference with TensorRT" (GTC 2017). P is the first i bins of |x|, with all
    that lies beyond added to the last of them, as clipping does. Q is the same bins without that,
    summed into 128 levels; each level's sum is spread evenly over those of its bins that hold
    something. The i with the least KL(P ‖ Q) gives the threshold. What the slides leave open is
    answered as in NVIDIA's ``pytorch_quantization`` (``calib/histogram.py``), but for the zeros:

    - where i is no multiple of 128, bin j belongs to level ⌊128·j/i⌋, so that levels differ by at
      most one bin (others put the whole rest into the last level);
    - where bin i-1 is empty, P has mass and Q has none: the divergence is infinite, no candidate;
    - of equal divergences, the largest i;
    - exact zeros are left out, since 0 is a level at any scale. After ReLU they would fill bin 0
      and choose a tiny threshold. (NVIDIA overwrites bin 0 with bin 1; here bin 0 keeps small
      values other than 0.)

    The slides' 2,048 bins end at the largest |x|. Here the limit is a power of two and the largest
    |x| lies in bin 1,024…2,047: the bins beyond it are empty and no candidates, so the search has
    the slides' form on 1,025 to 2,048 bins, each at most 0.1 % of the largest |x|.
    """
    largest = histogram.absolute_maximum
    counts = histogram.counts.copy()
    used = int(np.flatnonzero(counts)[-1]) + 1 if largest > 0 else 0
    if used <= MAGNITUDES:  # all is 0, or below FP32's normal numbers
        return largest
    counts[0] -= histogram.zeros
    kept, divergence = divergences(counts[:used])
    best = int(kept[::-1][np.argmin(divergence[::-1])])
    return min(best * histogram.width, largest)


def divergences(counts: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return each candidate i, the number of bins kept, and its KL(P ‖ Q) in nats: (I,), (I,).

    Args:
        counts: int64, (B,), B > 128; the last is not 0.
    """
    kept = MAGNITUDES + np.flatnonzero(counts[MAGNITUDES - 1 :])  # i, (I,)
    below = np.append(0, np.cumsum(counts))  # values in the first j bins, (B+1,)
    filled = np.append(0, np.cumsum(counts > 0))
    total, inside = below[-1], below[kept]
    # Level k starts at the first bin j with 128·j >= k·i.
    starts = -(np.arange(MAGNITUDES + 1) * -kept[:, None] // MAGNITUDES)  # (I, 129)
    mass = np.diff(below[starts], axis=1)  # of Q, (I, 128)
    bins = np.diff(filled[starts], axis=1)
    log_q = np.log(np.maximum(mass, 1) / np.maximum(bins, 1)) - np.log(inside)[:, None]
    # KL(P ‖ Q) = Σ P ln P - Σ P ln Q, where Q is constant on the filled bins of a level.
    p_log_p = np.append(0.0, np.cumsum(_x_log_x(counts)))[kept - 1]
    p_log_p += _x_log_x(counts[kept - 1] + total - inside)  # the last bin, with all beyond it
    mass[:, -1] += total - inside  # now of P
    divergence = (p_log_p - (mass * log_q).sum(axis=1)) / total - np.log(total)
    return kept, divergence


def _x_log_x(values: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(values * np.log(np.maximum(values, 1)), dtype=np.float64)


_Threshold = Callable[[StreamingHistogram], float]

_METHODS: dict[str, _Threshold] = {
    "minmax": lambda histogram: histogram.absolute_maximum,
    "percentile": _percentile,
    "entropy": entropy_threshold,
    "mse": _mse,
}
METHODS = tuple(_METHODS)


def _threshold_of(method: str) -> _Threshold:
    """The one reading of a method's name."""
    if method in _METHODS:
        return _METHODS[method]
    name, _, text = method.partition(":")
    try:
        percentile = float(text)
    except ValueError:
        percentile = 0.0
    if name != "percentile" or not 0 < percentile <= 100:
        raise InputError(
            f"unknown calibration method {method!r}",
            f"{', '.join(METHODS)}, or percentile:P with 0 < P <= 100",
        )
    return partial(_percentile, percentile=percentile)


_WAY_OUT = "export the checkpoint with the code that trained it, or --optimize-for portable"


def ranges_by_tensor(model: ir.Model, activation_ranges: Mapping[str, float]) -> dict[str, float]:
    """Return the threshold of each tensor that feeds a convolution, in graph order.

    A convolution is found by its node's name, which the exporter makes from the module's path:
    ``init_conv.0.conv`` is ``/network/init_conv/init_conv.0/conv/Conv``. Where ``sink_concat`` has
    split one into the sum of convolutions of its parts, each part has the threshold of the whole.

    Args:
        model: the FP32 graph of the checkpoint, before Q/DQ. It is not modified.
        activation_ranges: threshold t >= 0 by module name, ``Checkpoint.activation_ranges``.

    Raises:
        ArtifactError: a convolution of the graph has no range, a range has no convolution, or two
            convolutions that read one tensor have different ranges.
    """
    from dabnet.models.image_to_mask import node_scope  # brings torch, which no histogram needs

    modules = {f"{node_scope(module)}/Conv": module for module in activation_ranges}
    first: dict[str, str] = {}  # tensor → the first module that reads it
    missing = set(activation_ranges)
    for node in nodes_of(model.graph, "Conv"):
        # A part is called /…/Conv_output_0/conv_4.
        module = modules.get(str(node.name).partition("_output_0/conv_")[0])
        if module is None:
            raise ArtifactError(
                f"the convolution {node.name!r} has no range in the checkpoint",
                "one for each convolution of the graph",
                _WAY_OUT,
            )
        assert node.inputs[0] is not None
        tensor = str(node.inputs[0].name)
        ranges = [activation_ranges[m] for m in (first.setdefault(tensor, module), module)]
        if ranges[0] != ranges[1]:
            raise ArtifactError(
                f"the tensor {tensor!r} has the range {ranges[0]:g} for {first[tensor]!r}"
                f" and {ranges[1]:g} for {module!r}",
                "one range for all convolutions that read a tensor",
                "train it again with --qat",
            )
        missing.discard(module)
    if missing:
        raise ArtifactError(
            f"the checkpoint has a range for {min(missing)!r}, which is no convolution of the graph"
            f" ({len(missing)} such)",
            "the graph of that checkpoint",
            _WAY_OUT,
        )
    return {tensor: activation_ranges[module] for tensor, module in first.items()}
