"""Services that processes of ``bench.isolation`` run: they answer, and fail in every way."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

from bench.isolation import remote_progress
from dabnet.errors import BackendUnavailable


class Service:
    """Does what it is told."""

    def __init__(self, what: str = "") -> None:
        self.what, self.calls = what, 0
        if what == "refuse":
            raise BackendUnavailable("nothing to run on", "a device", "buy one")

    def count(self) -> tuple[int, int, str]:
        self.calls += 1
        return self.calls, os.getpid(), self.what

    def modules(self) -> list[str]:
        return [name for name in ("torch", "onnxruntime", "onnx") if name in sys.modules]

    def refuse(self) -> None:
        raise BackendUnavailable("no such kernel")

    def fault(self) -> None:
        raise ZeroDivisionError("a fault of the backend\nwith a second line")

    def crash(self) -> None:
        ctypes.string_at(0)  # reads address 0

    def killed(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def leave(self) -> None:
        os._exit(7)

    def hang(self, seconds: float) -> str:
        time.sleep(seconds)
        return "late"

    def loud(self) -> str:
        print("a library prints")
        os.write(2, b"and another one\n")
        return "done"

    def steps(self, count: int, pause: float = 0.0) -> str:
        with remote_progress("counting", count, "sheep") as step:
            for _ in range(count):
                time.sleep(pause)
                step()
        return "counted"
