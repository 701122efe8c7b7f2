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
class NvmlDouble:
    """A module ``pynvml`` with one GPU.

    Any name that the real module has can be read; constants and errors are its own. A function
    answers what ``answers`` holds under its name, raises it if it is an error, and is not
    supported where there is nothing.
    """

    answers: dict[str, Any] = field(default_factory=dict)
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
        if name == "nvmlDeviceGetHandleByIndex":
            if arguments != (0,):
                raise real.NVMLError(real.NVML_ERROR_INVALID_ARGUMENT)
            return "handle"
        assert arguments[0] == "handle"
        answer = self.answers.get(name, real.NVMLError(real.NVML_ERROR_NOT_SUPPORTED))
        if isinstance(answer, dict):  # by the clock or sensor that is asked for
            answer = answer[arguments[1]]
        if isinstance(answer, Exception):
            raise answer
        return answer(*arguments) if callable(answer) else answer
