"""Histograms of arrays."""

from __future__ import annotations

import numpy as np

from calibration.histogram import StreamingHistogram


def histogram_of(*arrays: np.ndarray) -> StreamingHistogram:
    histogram = StreamingHistogram()
    for array in arrays:
        histogram.update(array)
    return histogram
