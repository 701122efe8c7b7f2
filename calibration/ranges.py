"""From a histogram of |x| to the clipping threshold of a symmetric int8 quantiser.

The quantiser is ``clip(round(x / scale), -127, 127) * scale`` with ``scale = threshold / 127``.
A large threshold rounds coarsely, a small one clips; the methods differ in where they stop.

A further method is one function from histogram to threshold and one line in ``_METHODS``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from calibration.entropy import entropy_threshold
from calibration.histogram import BINS, StreamingHistogram
from dabnet.errors import InputError

LEVELS = 127  # -128 is left out, so that the levels are symmetric around 0
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
            divergence, see ``calibration.entropy``; ``mse``: the least expected squared error.

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
    counts = histogram.counts
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


def _minmax(histogram: StreamingHistogram) -> float:
    return histogram.absolute_maximum


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


_Threshold = Callable[[StreamingHistogram], float]

_METHODS: dict[str, _Threshold] = {
    "minmax": _minmax,
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
