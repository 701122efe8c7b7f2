"""The machine that a report's numbers hold for."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from dabnet import __version__
from dabnet.errors import BackendUnavailable
from dabnet.runtime.cuda import open_device_memory

PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "numpy")


def describe_environment() -> dict[str, str]:
    """Return processor, system, GPU and the versions of what can run a network, by name."""
    facts = {
        "dabnet-toolkit": __version__,
        "processor": f"{_processor()} ({os.cpu_count()} logical cores)",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "load average": _load(),
        "gpu": _gpu(),
    }
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return facts


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _load() -> str:
    """Load of the last minute before the run: above 0, others were using the machine."""
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"


def _gpu() -> str:
    try:
        memory = open_device_memory()
    except BackendUnavailable:
        return "none"
    try:
        major, minor = memory.compute_capability
        return f"{memory.name} (compute capability {major}.{minor}), driver {memory.driver}"
    finally:
        memory.close()
