"""Channels of one range: cross-layer equalisation.

int8 gives a tensor one scale, and a channel of a small range gets few of its levels. DABNet's
channels differ several times within a tensor. A factor per channel brings them to one range: the
Conv or BatchNormalization before the tensor multiplies by it and the readers divide it out, so that
the network computes the same (``calibration.channel_sites``). Weights have a scale per output
channel: a depthwise convolution takes any factor for nothing, a dense one for somewhat coarser
weights.

Source: Nagel et al. 2019 (arXiv 1906.04721), section 4.1. All of the difference is moved from the
activations to the weights: equation 4 of SmoothQuant (Xiao et al. 2022, arXiv 2211.10438), α = 1.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.channel_histograms import ChannelHistograms
from calibration.channel_sites import ScalableGraph
from calibration.collect import Image, Progress, collect_channels
from calibration.ranges import symmetric_range
from dabnet.errors import InputError

# ``mse`` would try 2,048 thresholds for each of thousands of channels, and gains little here.
_METHOD = "percentile"

# No factor is larger, nor smaller than its inverse: a channel so small has no level left to gain.
_LARGEST_FACTOR = 256.0


def equalize(
    model: onnx.ModelProto,
    images: Iterable[Image],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[onnx.ModelProto, list[str]]:
    """Return a copy in which the channels of what each Conv reads have one range, and what changed.

    The copy computes the same but for FP32 rounding. Its ranges are other ones: calibrate it.

    Args:
        model: an FP32 graph with one input, uint8 (N, H, W, 3). It is not modified.
        images: name and uint8 (H, W, 3) or (N, H, W, 3), RGB, 0…255, of the training split; read
            once, one at a time. 16 suffice.
        threads, progress: see ``calibration.collect.collect``.

    Returns:
        The model, and a line for each tensor that a Conv reads: what was done, or why it was left.

    Raises:
        InputError: there are no images; or as ``calibration.collect.collect``.
        MissingPackage, BuildError: as ``calibration.collect.collect``.
    """
    graph = ScalableGraph(model)
    tensors = [name for site in graph.sites for name in site.conv_inputs]
    histograms = collect_channels(model, images, tensors, threads=threads, progress=progress)
    if not all(histograms[name].channels for name in tensors):
        raise InputError("no images to equalise with", "at least one of the train split")
    lines = []
    for site in graph.sites:
        ranges = np.max([_ranges(histograms[name]) for name in site.conv_inputs], axis=0)
        factors = _factors(ranges)
        graph.scale(site, factors)
        low, high = ranges.min(), ranges.max()
        lines += [f"{name}: channels of ±{low:.3g} to ±{high:.3g}" for name in site.conv_inputs]
    lines += [f"{name}: left, {why}" for name, why in graph.obstacles.items()]
    return graph.model, lines


def _ranges(histograms: ChannelHistograms) -> NDArray[np.float64]:
    """float64 (C,), >= 0."""
    return np.array([symmetric_range(channel, _METHOD) for channel in histograms.channels])


def _factors(ranges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return f > 0, (C,), so that ``f * ranges`` is their geometric mean; 1 for a dead channel."""
    alive = ranges > 0
    if not alive.any():
        return np.ones_like(ranges)
    mean = np.exp(np.log(ranges[alive]).mean())
    factors = np.divide(mean, ranges, out=np.ones_like(ranges), where=alive)
    clipped: NDArray[np.float64] = np.clip(factors, 1 / _LARGEST_FACTOR, _LARGEST_FACTOR)
    return clipped
