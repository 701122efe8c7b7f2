"""Peak rates of a device, measured: the peaks of the roofline.

The best of several micro-kernels and of many repeats counts: a peak that a backend can pass makes
every share of it wrong. For the same reason rates are kept for the next run only if nobody else
used the processor meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from bench.isolation import remote_progress
from bench.machine.environment import describe_environment
from bench.machine.kernels import (
    BYTES,
    CACHE_BYTES,
    PeakKernel,
    cpu_kernels,
    gpu_cache_bytes,
    gpu_kernels,
)
from bench.machine.telemetry import DISTURBED_CORES, CpuWatch
from bench.record import Cache, Peaks
from dabnet.console import ProgressBar
from dabnet.device import Device
from dabnet.errors import BackendUnavailable, DabnetError, InputError
from dabnet.files import writable_directory, writable_target
from dabnet.outputs import PEAKS
from dabnet.precision import FP32, PRECISIONS
from dabnet.records import Codec

CACHE_FILE = "machine.json"
BUDGET_S = 0.5  # of a kernel
LIBRARIES = ("torch", "onnxruntime", "onnxruntime-gpu")

_KEPT = Codec(dict[str, Peaks], "measurement of this machine", "dabnet-bench", "measure again")
_log = logging.getLogger(__name__)


class PeakMeter:
    """Measures a device, as a service of ``bench.isolation.Isolated``.

    It sets the threads of torch and holds half a gigabyte for a moment, so it gets its own process.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        cache: folder of ``machine.json``; what cannot be read there is measured again.
    """

    def __init__(
        self, device: str, threads: int, cache: Path, progress: ProgressBar = remote_progress
    ) -> None:
        self._device, self._threads = Device.parse(device), threads
        self._file, self._progress = cache / CACHE_FILE, progress

    def peaks(self) -> Peaks:
        """The peaks, measured now or before on this machine with these libraries.

        Raises:
            BackendUnavailable: memory or float32 arithmetic could not be measured.
        """
        device = self._device
        facts = describe_environment(device.index)
        name = _gpu_name(device.index) if device.is_gpu else facts["processor"]
        # The environment's fact adds compute capability and driver.
        machine = [name, facts["gpu"], CACHE_BYTES] if device.is_gpu else [name]
        versions = (f"{library} {facts[library]}" for library in LIBRARIES if library in facts)
        key = "; ".join([*machine, f"{self._threads} threads", *PRECISIONS, *versions])
        known = _kept(self._file)
        if key in known:
            return known[key]
        kernels = gpu_kernels(device.index) if device.is_gpu else cpu_kernels(self._threads)
        watch = CpuWatch()
        rates = best_rates(kernels, self._progress)
        foreign = watch.foreign_cores()
        if missing := {BYTES, FP32} - set(rates):
            raise BackendUnavailable(f"{name}: no kernel measured {', '.join(sorted(missing))}")
        cached = rates.pop(CACHE_BYTES, None)
        cache = Cache(gpu_cache_bytes(device.index), cached) if cached else None
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        peaks = Peaks(name, rates.pop(BYTES), rates, now, cache)
        if foreign is None or foreign < DISTURBED_CORES:
            # Not to be able to is no reason to end: it is measured again next time.
            with suppress(InputError):
                writable_directory(self._file.parent)
                writable_target(self._file, kind=PEAKS)
                _KEPT.write({**known, key: peaks}, self._file)
        return peaks


def best_rates(kernels: Sequence[PeakKernel], progress: ProgressBar) -> dict[str, float]:
    """The best rate of each kind of which a kernel runs here."""
    rates: dict[str, float] = {}
    with progress("measuring the machine", len(kernels), "kernels") as step:
        for kernel in kernels:
            try:
                rate = kernel.best_rate(BUDGET_S)
            except Exception as error:  # of one library or device: others can be measured
                _log.warning("%s: not measured (%s)", kernel.name, error)
            else:
                _log.info("%s: %.3g %s/s", kernel.name, rate, kernel.kind)
                rates[kernel.kind] = max(rate, rates.get(kernel.kind, 0.0))
            step()
    return rates


def _gpu_name(index: int) -> str:
    import torch

    if not torch.cuda.is_available():
        raise BackendUnavailable("torch sees no NVIDIA GPU", fix="check nvidia-smi")
    return str(torch.cuda.get_device_name(index))


def _kept(path: Path) -> dict[str, Peaks]:
    """What earlier runs measured; a file that cannot be read, for any reason, holds nothing."""
    try:
        kept = _KEPT.read(path)
    except DabnetError:
        return {}
    return {
        key: peaks
        for key, peaks in kept.items()
        if FP32 in (rates := peaks.multiply_adds_per_s)
        and min(peaks.bytes_per_s, *rates.values()) > 0
        and (peaks.cache is None or min(peaks.cache.size_bytes, peaks.cache.bytes_per_s) > 0)
    }
