"""What a row costs beside time, and the least time that it could take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a row costs beside time.

    Attributes:
        artifact_bytes: size of the file.
        load_s: from the file to a runner.
        first_inference_s: the first call after it.
        host_peak_bytes: most memory that its process held.
        device_peak_bytes: most memory of the GPU that its process held, as NVML saw it.
    """

    artifact_bytes: int = 0
    load_s: float | None = None
    first_inference_s: float | None = None
    host_peak_bytes: int | None = None
    device_peak_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Peaks:
    """What a device can do, measured by ``bench.machine.peaks``.

    Attributes:
        device: its name.
        bytes_per_s: of its memory, reading and writing.
        multiply_adds_per_s: by type: ``fp32``, ``fp16``, ``int8``, those that were measured.
        measured: date and time, ISO 8601.
    """

    device: str
    bytes_per_s: float
    multiply_adds_per_s: dict[str, float]
    measured: str


@dataclass(frozen=True, slots=True)
class Limit:
    """The least time that the graph's own work takes at the peaks of the machine.

    Attributes:
        seconds: sum over kernels of the longer of arithmetic and memory traffic, a call.
        arithmetic_s, traffic_s: each alone.
        multiply_adds, traffic_bytes: of a call.
        kernels: how many, with what follows a convolution pixel by pixel taken into it.
        share: of the limit that was reached: ``seconds`` / median of the device scope.
    """

    seconds: float
    arithmetic_s: float
    traffic_s: float
    multiply_adds: int
    traffic_bytes: int
    kernels: int
    share: float | None = None
