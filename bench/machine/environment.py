"""The machine that a report's numbers hold for."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path

from bench.machine.gpu_telemetry import GpuMonitor
from dabnet import __version__
from dabnet.errors import BackendUnavailable
from dabnet.runtime.cuda import open_device_memory

LOAD = "load average"
GPU_SETTINGS = "gpu settings"
PACKAGES = (
    *("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "numpy"),
)


def describe_environment(gpu: int = 0) -> dict[str, str]:
    """Processor, system, GPU and the versions of what can run a network, by name.

    Args:
        gpu: CUDA's number of the GPU to describe.
    """
    # Load of the last minute: above 0, others were using the machine.
    load = f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"
    facts = {
        "dabnet-toolkit": __version__,
        "processor": f"{_processor()} ({os.cpu_count()} logical cores)",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        LOAD: load,
        **_gpu(gpu),
    }
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            facts[package] = importlib.metadata.version(package)
    return facts


def lasting_facts(environment: Mapping[str, str]) -> dict[str, str]:
    """The facts that identify a machine: not its load, nor what its owner may set at any time.

    A run that was stopped may thus be continued with other clocks, say after it was throttled. The
    clocks of each turn tell the halves apart.
    """
    return {name: fact for name, fact in environment.items() if name not in (LOAD, GPU_SETTINGS)}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _gpu(index: int) -> dict[str, str]:
    """The GPU by CUDA, and its settings if NVML knows them."""
    try:
        with contextlib.closing(open_device_memory(index)) as memory:
            major, minor = memory.compute_capability
            name = f"{memory.name} (compute capability {major}.{minor}), driver {memory.driver}"
            monitor = GpuMonitor.opened(memory.pci_bus_id)
    except BackendUnavailable:
        return {"gpu": "none"}
    if monitor is None:
        return {"gpu": name}
    with contextlib.closing(monitor):
        settings = monitor.settings()
    return {"gpu": name, **({GPU_SETTINGS: settings} if settings else {})}
