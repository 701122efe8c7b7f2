"""The limit of a row: the roofline of its ONNX graph at the peaks of the machine."""

from __future__ import annotations

from pathlib import Path

from bench.record import Limit, Peaks, Setting
from dabnet.graph.roofline import kernels_of
from export.onnx_file import load_onnx


def limit_of(graph: Path, setting: Setting, precision: str, peaks: Peaks) -> Limit:
    """Return the limit of one call of an ONNX graph, without a share.

    A kernel takes the longer of its arithmetic and its traffic, part of which the cache may serve
    where one was measured; kernels follow each other. Work is counted on the graph given: if it
    was rewritten for a backend, on what it was rewritten to.

    Args:
        setting: size and batch. Streams share one machine: the limit of a call is that of one.
        precision: of the arithmetic if all of the graph is float32; see ``kernels_of``.
        peaks: of the device that computed; ``fp32`` is among them.

    Raises:
        InputError, ArtifactError: the file cannot be read, is of another size, or has a layer
            whose shape cannot be inferred.
    """
    model = load_onnx(graph)
    kernels = kernels_of(model, (setting.batch, *setting.size), precision)
    seconds = [kernel.seconds(peaks, peaks.cache) for kernel in kernels]
    return Limit(
        seconds=sum(map(max, seconds)),
        arithmetic_s=sum(arithmetic for arithmetic, _ in seconds),
        traffic_s=sum(traffic for _, traffic in seconds),
        multiply_adds=sum(kernel.multiply_adds for kernel in kernels),
        traffic_bytes=sum(kernel.traffic_bytes for kernel in kernels),
        kernels=len(kernels),
    )
