"""The range of TensorRT's entropy calibration: the least KL divergence after clipping and rounding.

S. Migacz, "8-bit Inference with TensorRT" (GTC 2017). P is the first i bins of |x|, with all that
lies beyond added to the last of them, as clipping does. Q is the same bins without that, summed
into 128 levels; each level's sum is spread evenly over those of its bins that hold something. The i
with the least KL(P ‖ Q) gives the threshold. The slides leave open what follows; where NVIDIA's
``pytorch_quantization`` (``calib/histogram.py``) answers, so is it here:

- where i is no multiple of 128, bin j belongs to level ⌊128·j/i⌋, so that levels differ by at most
  one bin (others put the whole rest into the last level);
- where bin i-1 is empty, P has mass and Q has none: the divergence is infinite, no candidate;
- of equal divergences, the largest i;
- exact zeros are left out, since 0 is a level at any scale. After ReLU they would fill bin 0 and
  choose a tiny threshold. (``pytorch_quantization`` overwrites bin 0 with bin 1; here they are
  counted, so small values other than 0 can stay.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibration.histogram import StreamingHistogram

LEVELS = 128  # those of |x| in int8: 0…127


def entropy_threshold(histogram: StreamingHistogram) -> float:
    """Return the threshold with the least KL divergence, in units of x; at most the largest |x|.

    The slides' 2,048 bins end at the largest |x|. Here the limit is a power of two and the largest
    |x| lies in bin 1,024…2,047: the bins beyond it are empty and no candidates, so the search has
    the slides' form on 1,025 to 2,048 bins, each at most 0.1 % of the largest |x|.
    """
    largest = histogram.absolute_maximum
    counts = histogram.counts
    used = int(np.flatnonzero(counts)[-1]) + 1 if largest > 0 else 0
    if used <= LEVELS:  # all is 0, or below FP32's normal numbers
        return largest
    counts[0] -= histogram.zeros
    return min(_least_divergent(counts[:used]) * histogram.width, largest)


def _least_divergent(counts: NDArray[np.int64]) -> int:
    """Return how many bins to keep; ``counts`` is as for ``divergences``."""
    kept, divergence = divergences(counts)
    return int(kept[::-1][np.argmin(divergence[::-1])])


def divergences(counts: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return each candidate i, the number of bins kept, and its KL(P ‖ Q) in nats: (I,), (I,).

    Args:
        counts: int64, (B,), B > 128; the last is not 0.
    """
    kept = LEVELS + np.flatnonzero(counts[LEVELS - 1 :])  # i, (I,)
    below = np.append(0, np.cumsum(counts))  # values in the first j bins, (B+1,)
    filled = np.append(0, np.cumsum(counts > 0))
    total, inside = below[-1], below[kept]
    # Level k starts at the first bin j with 128·j >= k·i.
    starts = -(np.arange(LEVELS + 1) * -kept[:, None] // LEVELS)  # (I, 129)
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
