"""The machine that a report's numbers hold for."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path

from dabnet import __version__
from dabnet.errors import BackendUnavailable
from dabnet.runtime.cuda import open_device_memory

LOAD = "load average"
PACKAGES = (
    *("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "numpy"),
)


def describe_environment() -> dict[str, str]:
    """Processor, system, GPU and the versions of what can run a network, by name."""
    # Load of the last minute: above 0, others were using the machine.
    load = f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"
    facts = {
        "dabnet-toolkit": __version__,
        "processor": f"{_processor()} ({os.cpu_count()} logical cores)",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        LOAD: load,
        "gpu": _gpu(),
    }
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            facts[package] = importlib.metadata.version(package)
    return facts


def lasting_facts(environment: Mapping[str, str]) -> dict[str, str]:
    """The facts of the machine, without the load of a moment, which is none."""
    return {name: fact for name, fact in environment.items() if name != LOAD}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _gpu() -> str:
    try:
        with contextlib.closing(open_device_memory()) as memory:
            major, minor = memory.compute_capability
            return f"{memory.name} (compute capability {major}.{minor}), driver {memory.driver}"
    except BackendUnavailable:
        return "none"
