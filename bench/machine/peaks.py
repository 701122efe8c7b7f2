"""What a device can do at most, measured: the peaks of the roofline.

Of each quantity the best of several micro-kernels and of many repeats counts, since a peak that a
backend can pass makes every share of it wrong. For the same reason figures are kept for the next
run only if nobody else used the processor meanwhile.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from bench.isolation import remote_progress
from bench.machine.cpu_peaks import cpu_kernels
from bench.machine.environment import describe_environment
from bench.machine.gpu_peaks import gpu_kernels
from bench.machine.peak_kernel import BYTES, PeakKernel
from bench.machine.telemetry import DISTURBED_CORES, CpuWatch
from bench.record import Peaks
from dabnet.console import ProgressBar
from dabnet.errors import BackendUnavailable, DabnetError
from dabnet.records import Codec

CACHE_FILE = "machine.json"
BUDGET_S = 0.5  # of a kernel
LIBRARIES = ("torch", "onnxruntime", "onnxruntime-gpu")

_KEPT = Codec(dict[str, Peaks], "measurement of this machine", "dabnet-bench", "measure again")
_log = logging.getLogger(__name__)


class PeakMeter:
    """``measured_peaks`` as a service of ``bench.isolation.Isolated``.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: of the processor, as the rows use them.
        cache: folder that keeps the figures.
    """

    def __init__(self, device: str, threads: int, cache: Path) -> None:
        self._arguments = device, threads, cache

    def peaks(self) -> Peaks:
        return measured_peaks(*self._arguments, remote_progress)


def measured_peaks(device: str, threads: int, cache: Path, progress: ProgressBar) -> Peaks:
    """Return the peaks of a device, measured now or before on this machine with these libraries.

    It sets the threads of torch and holds half a gigabyte for a moment: call it in a process of its
    own (``PeakMeter``).

    Args:
        device: ``cpu`` or ``cuda`` (the first GPU).
        threads: of the processor, as the rows use them.
        cache: folder of ``machine.json``; what cannot be read there is measured anew.

    Raises:
        BackendUnavailable: memory or float32 arithmetic could not be measured.
    """
    name = _name_of(device)
    key = "; ".join([name, f"{threads} threads", *_versions()])
    known = _kept(cache / CACHE_FILE)
    if key in known:
        return known[key]
    kernels = gpu_kernels() if device == "cuda" else cpu_kernels(threads)
    watch = CpuWatch()
    rates = best_rates(kernels, progress)
    foreign = watch.foreign_cores()
    if missing := {BYTES, "fp32"} - set(rates):
        raise BackendUnavailable(f"the peaks of {name} cannot be measured: {', '.join(missing)}")
    peaks = Peaks(
        name, rates.pop(BYTES), rates, datetime.now(timezone.utc).isoformat(timespec="seconds")
    )
    if foreign is None or foreign < DISTURBED_CORES:
        cache.mkdir(parents=True, exist_ok=True)
        _KEPT.write({**known, key: peaks}, cache / CACHE_FILE)
    return peaks


def best_rates(kernels: Sequence[PeakKernel], progress: ProgressBar) -> dict[str, float]:
    """Return the best rate of each kind; kinds of which no kernel runs here are left out."""
    rates: dict[str, float] = {}
    with progress("measuring the machine", len(kernels), "kernels") as step:
        for kernel in kernels:
            try:
                rate = kernel.best_rate(BUDGET_S)
            except Exception as error:  # a library, a device or memory is missing: others are not
                _log.warning("%s: not measured (%s)", kernel.name, error)
            else:
                _log.info("%s: %.3g %s/s", kernel.name, rate, kernel.kind)
                rates[kernel.kind] = max(rate, rates.get(kernel.kind, 0.0))
            step()
    return rates


def _name_of(device: str) -> str:
    if device != "cuda":
        return describe_environment()["processor"]
    import torch

    if not torch.cuda.is_available():
        raise BackendUnavailable("torch sees no NVIDIA GPU", fix="check nvidia-smi")
    return str(torch.cuda.get_device_name(0))


def _versions() -> list[str]:
    found = []
    for library in LIBRARIES:
        try:
            found.append(f"{library} {importlib.metadata.version(library)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _kept(path: Path) -> dict[str, Peaks]:
    """What earlier runs measured; {} where it cannot be read."""
    try:
        kept = _KEPT.read(path)
    except DabnetError:  # no file, no JSON, other fields: whatever it is, it is measured anew
        return {}
    return {key: peaks for key, peaks in kept.items() if _sound(peaks)}


def _sound(peaks: Peaks) -> bool:
    rates = (peaks.bytes_per_s, *peaks.multiply_adds_per_s.values())
    return "fp32" in peaks.multiply_adds_per_s and all(0 < rate < float("inf") for rate in rates)
