"""Every Python that has this folder on its path is one of a machine with a GPU that is a double.

Python imports ``sitecustomize`` at its start (https://docs.python.org/3/library/site.html), so the
children of a program see the doubles too. Variables say more:

- ``DOUBLE_PACKAGES``: the packages that have doubles here, of ``onnxruntime``, ``tensorrt`` and
  ``tensorrt_rtx``; the real ones of these names, and NVIDIA's plug-in, are hidden;
- ``DOUBLE_CARD``: compute capability of the card, such as ``8.6``;
- ``DOUBLE_SIZE``: (height, width) of the images of TensorRT's engines, such as ``32x64``;
- ``DOUBLE_REFUSES``: versions of TensorRT's double that build nothing, such as ``rtx-1.7.1``;
- ``AUDIT_FILE``, ``AUDIT_FOLDER``: where to note what is written outside of that folder, and every
  use of the network (https://docs.python.org/3/library/audit_events.html).
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

CUDA = "dabnet.runtime.cuda"
PACKAGES = ("onnxruntime", "tensorrt", "tensorrt_rtx")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {
    *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"),
    *("os.chmod", "os.chown", "os.utime", "shutil.rmtree"),
}
NETWORK = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}


class Doubles(MetaPathFinder, Loader):
    """Gives a double where a package is first imported; ``gpu_machine_double`` makes it then."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names, self._making = set(names), False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return None if name not in self._names or self._making else ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self._making = True  # the doubles are made of the real ones
        try:
            doubles = importlib.import_module("tests.support.gpu_machine_double")
            made: ModuleType = doubles.MAKERS[spec.name]()
            return made
        finally:
            self._making = False

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to be done."""


class CardFinder(MetaPathFinder):
    """Finds ``dabnet.runtime.cuda``, whose ``open_device_memory`` then opens the double's card."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != CUDA:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        run: Any = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            run(module)

            def opened(index: int = 0) -> Any:
                return importlib.import_module("tests.support.gpu_machine_double").opened(index)

            module.open_device_memory = opened

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def watch(file: str, folder: str) -> None:
    allowed = (os.path.realpath(folder) + os.sep, "/dev/", "/proc/")

    def note(event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = given
            if isinstance(path, int) or not (flags or 0) & WRITES:
                return
            outside(f"{event} {mode}", path)
        elif event in CHANGES:
            outside(event, given[0])
        elif event in NETWORK and not isinstance(given[-1], (str, bytes)):
            write(f"{event} {given[1:]}")

    def outside(event: str, path: Any) -> None:
        if isinstance(path, int):  # of a descriptor, which was noted when it was opened
            return
        real = os.path.realpath(os.fsdecode(path))
        if not (real + os.sep).startswith(allowed):
            write(f"{event} {real}")

    def write(line: str) -> None:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(handle, f"{line} ({sys.argv})\n".encode())
        os.close(handle)

    noting = [False]

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if noting[0]:
            return
        noting[0] = True
        try:
            note(event, given)
        finally:
            noting[0] = False

    sys.addaudithook(hook)


wanted = os.environ.get("DOUBLE_PACKAGES", "").split()
for hidden in (*PACKAGES, "onnxruntime_ep_nv_tensorrt_rtx"):
    if hidden not in wanted:
        sys.modules[hidden] = None  # type: ignore[assignment]
sys.meta_path[:0] = [Doubles([*wanted, "pynvml"]), CardFinder()]
if "AUDIT_FILE" in os.environ:
    watch(os.environ["AUDIT_FILE"], os.environ["AUDIT_FOLDER"])
