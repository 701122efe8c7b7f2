"""The roofline: the least time in which a machine of measured peaks can do a graph's own work."""

from __future__ import annotations

from pathlib import Path

from bench.machine.kernels import Kernel, kernels_of
from bench.record import Limit, Peaks, Setting
from export.onnx_file import load_onnx


def limit_of(
    graph: Path, setting: Setting, precision: str, peaks: Peaks, device_seconds: float | None
) -> Limit:
    """Return the limit of one call of an ONNX graph.

    A kernel takes the longer of its arithmetic, at the peak of its type, and its traffic; kernels
    follow each other. Work is counted on the graph given: of one that was rewritten for a backend,
    on what it was rewritten to.

    Args:
        graph: ONNX file with the operations of one call.
        setting: size and batch. Streams share one machine: the limit of a call is that of one.
        precision: of the arithmetic, where the graph itself is float32; see ``kernels_of``.
        peaks: of the device that computed; ``fp32`` is among them.
        device_seconds: median time of a call in the device scope; None gives no share.

    Raises:
        InputError, ArtifactError: the file cannot be read, is of another size, or has a layer
            whose shape cannot be inferred.
    """
    kernels = kernels_of(load_onnx(graph), (setting.batch, *setting.size), precision)
    arithmetic = [kernel.multiply_adds / _peak(peaks, kernel) for kernel in kernels]
    traffic = [kernel.traffic_bytes / peaks.bytes_per_s for kernel in kernels]
    seconds = sum(map(max, arithmetic, traffic))
    return Limit(
        seconds=seconds,
        arithmetic_s=sum(arithmetic),
        traffic_s=sum(traffic),
        multiply_adds=sum(kernel.multiply_adds for kernel in kernels),
        traffic_bytes=sum(kernel.traffic_bytes for kernel in kernels),
        kernels=len(kernels),
        share=seconds / device_seconds if device_seconds else None,
    )


def _peak(peaks: Peaks, kernel: Kernel) -> float:
    """Of the kernel's type; of float32 where that was not measured or is more.

    A backend may compute in float32 what is stored narrower, and some do.
    """
    measured = peaks.multiply_adds_per_s
    kind = {"bf16": "fp16"}.get(kernel.precision, kernel.precision)
    return max(measured["fp32"], measured.get(kind, 0.0))
