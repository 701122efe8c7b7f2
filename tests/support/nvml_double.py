"""NVML without a GPU: what it answers is the test's; its names are those of the real pynvml."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

real: Any = pytest.importorskip("pynvml")


@dataclass
class Process:
    pid: int
    usedGpuMemory: int | None  # its name in NVML


@dataclass
class Utilisation:
    """Kernels of a process in one period; names of ``nvmlProcessUtilizationSample_t``."""

    pid: int
    smUtil: int  # percent


@dataclass
class NvmlDouble:
    """A module ``pynvml`` with one GPU, at the address ``pci`` in the form that NVML prints.

    Any name that the real module has can be read; constants and errors are its own. A function
    answers what ``answers`` holds under its name, raises it if it is an error, and is not
    supported where there is nothing.
    """

    answers: dict[str, Any] = field(default_factory=dict)
    pci: str = "00000000:65:00.0"
    open: int = 0
    has_driver: bool = True
    asked: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        found = getattr(real, name)  # a name that does not exist fails here
        if not name.startswith("nvml") or not callable(found):
            return found
        return lambda *arguments: self._answer(name, arguments)

    def _answer(self, name: str, arguments: tuple[Any, ...]) -> Any:
        self.asked.append(name)
        if name == "nvmlInit":
            if not self.has_driver:
                raise real.NVMLError(real.NVML_ERROR_LIBRARY_NOT_FOUND)
            self.open += 1
            return None
        if name == "nvmlShutdown":
            self.open -= 1
            return None
        assert self.open, f"{name} before nvmlInit"
        if name == "nvmlDeviceGetHandleByPciBusId":
            (given,) = arguments  # bytes: text is an error in some versions of the package
            if _numbers(given.decode()) != _numbers(self.pci):
                raise real.NVMLError(real.NVML_ERROR_NOT_FOUND)
            return "handle"
        assert name.startswith("nvmlSystem") or arguments[0] == "handle"
        answer = self.answers.get(name, real.NVMLError(real.NVML_ERROR_NOT_SUPPORTED))
        if isinstance(answer, dict):  # by the clock or sensor that is asked for
            answer = answer[arguments[1]]
        if isinstance(answer, Exception):
            raise answer
        return answer(*arguments) if callable(answer) else answer


def _numbers(pci: str) -> list[int]:
    """Domain, bus, device and function, which NVML reads with any number of leading zeros."""
    return [int(number, 16) for number in pci.replace(".", ":").split(":")]
