"""CUDA graphs through cuda-python: a run is recorded once and then started as one operation.

https://nvidia.github.io/cuda-python/cuda-bindings/latest/module/runtime.html, Stream Management
(capture) and Graph Management.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from dabnet.errors import BackendUnavailable

Call = Callable[..., Any]
"""Calls a function of ``cuda.bindings.runtime`` by name; raises BackendUnavailable on an error."""


class CudaGraph(Protocol):
    """A recorded run."""

    def launch(self, stream: int) -> None:
        """Start it; it reads and writes the addresses that it was recorded with."""
        ...

    def close(self) -> None:
        """Release it. It must not be running."""
        ...


class CapturedGraph:
    """A graph that ``record`` instantiated."""

    def __init__(self, call: Call, executable: Any) -> None:
        self._call, self._executable = call, executable

    @classmethod
    def record(cls, cuda: Any, call: Call, stream: int, work: Callable[[], None]) -> CapturedGraph:
        """Record what ``work`` starts on ``stream``; nothing of it runs now.

        ``cuda`` is the module ``cuda.bindings.runtime``. Other threads may allocate meanwhile
        (capture mode ThreadLocal); this one must not.
        """
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call("cudaStreamBeginCapture", stream, mode)
        try:
            work()
        except BaseException:
            with suppress(BackendUnavailable):  # only so that the stream can be used again
                call("cudaGraphDestroy", call("cudaStreamEndCapture", stream))
            raise
        graph = call("cudaStreamEndCapture", stream)
        try:
            return cls(call, call("cudaGraphInstantiate", graph, 0))
        finally:
            call("cudaGraphDestroy", graph)  # the executable graph stands alone

    def launch(self, stream: int) -> None:
        self._call("cudaGraphLaunch", self._executable, stream)

    def close(self) -> None:
        self._call("cudaGraphExecDestroy", self._executable)
