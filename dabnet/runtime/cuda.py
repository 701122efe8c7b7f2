"""The first GPU, as engines need it, without torch: memory, copies, streams and CUDA graphs.

Two packages can give them: ``cuda.bindings.runtime`` (cuda-python; wheels, imports without a
driver; https://nvidia.github.io/cuda-python/cuda-bindings/latest/module/runtime.html) and
``pycuda`` (the Pascal stack; https://documen.tician.de/pycuda/driver.html). Addresses and streams
are plain integers, which is what TensorRT takes.
"""

from __future__ import annotations

import ctypes
import importlib
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dabnet.errors import BackendUnavailable

HostArray = NDArray[Any]


def open_device_memory() -> DeviceMemory:
    """Open the first GPU through cuda-python, or else through pycuda.

    Raises:
        BackendUnavailable: there is no package, no driver or no GPU; one line says which.
    """
    with suppress(ImportError):
        return CudaPythonMemory(importlib.import_module("cuda.bindings.runtime"))
    try:
        return PycudaMemory(importlib.import_module("pycuda.driver"))
    except ImportError as error:
        # pycuda without a driver fails to load libcuda.so.1, which is an ImportError too.
        if "libcuda" in str(error):
            fix = "install the NVIDIA driver"
            raise BackendUnavailable(f"no NVIDIA driver ({error})", fix=fix) from error
    raise BackendUnavailable(
        "neither 'cuda.bindings' (cuda-python) nor 'pycuda' is installed",
        fix="pip install '.[gpu]', '.[rtx]', or for the GTX 10 series "
        "-c constraints/pascal.txt '.[pascal]'",
    )


def gpu_unavailable_reason() -> str | None:
    """Return why no GPU can be used, in one line; None if one can."""
    try:
        open_device_memory().close()
    except BackendUnavailable as error:
        return str(error)
    return None


class CudaPythonMemory:
    """The first GPU by ``cuda.bindings.runtime``, whose calls return (error, results…).

    Attributes:
        name: such as ``NVIDIA GeForce GTX 1080 Ti``.
        compute_capability: (major, minor).
        driver: its version and the newest CUDA it serves, such as ``580.95.05 (CUDA 13.0)``.
    """

    def __init__(self, runtime: Any) -> None:
        self._cuda = runtime
        self._pinned: dict[int, int] = {}
        if self.call("cudaGetDeviceCount") == 0:
            raise _no_gpu("the driver sees none")
        self.call("cudaSetDevice", 0)
        kinds, prefix = runtime.cudaDeviceAttr, "cudaDevAttrComputeCapability"
        major, minor = (
            int(self.call("cudaDeviceGetAttribute", getattr(kinds, prefix + part), 0))
            for part in ("Major", "Minor")
        )
        self.compute_capability = (major, minor)
        self.name = self.call("cudaGetDeviceProperties", 0).name.decode().strip("\0 ")
        self.driver = _driver_text(int(self.call("cudaDriverGetVersion")))

    def allocate(self, nbytes: int) -> int:
        return int(self.call("cudaMalloc", nbytes))

    def free(self, address: int) -> None:
        self.call("cudaFree", address)

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> HostArray:
        """Return an uninitialised C-contiguous array in page-locked host memory."""
        kind = np.dtype(dtype)
        nbytes = int(np.prod(shape)) * kind.itemsize
        address = int(self.call("cudaMallocHost", nbytes))
        buffer = (ctypes.c_ubyte * nbytes).from_address(address)
        array: HostArray = np.ctypeslib.as_array(buffer).view(kind).reshape(shape)
        self._pinned[array.ctypes.data] = address
        return array

    def free_pinned(self, array: HostArray) -> None:
        """Release what ``pinned`` gave; the array must not be touched again."""
        self.call("cudaFreeHost", self._pinned.pop(array.ctypes.data))

    def create_stream(self) -> int:
        return int(self.call("cudaStreamCreate"))

    def destroy_stream(self, stream: int) -> None:
        self.call("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        self.call("cudaStreamSynchronize", stream)

    def copy_to_device(self, address: int, source: HostArray, stream: int) -> None:
        """Start a copy of all of ``source`` (C-contiguous; asynchronous if pinned)."""
        way = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, way, stream)

    def copy_to_host(self, target: HostArray, address: int, stream: int) -> None:
        """Start a copy that fills all of ``target`` (C-contiguous; asynchronous if pinned)."""
        way = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, way, stream)

    def capture(self, stream: int, work: Callable[[], None]) -> CudaGraph:
        """Record what ``work`` starts on ``stream``, without running it.

        Other threads may allocate meanwhile; this one must not.
        """
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", stream, mode)
        try:
            work()
        except BaseException:
            with suppress(BackendUnavailable):  # only so that the stream can be used again
                self.call("cudaGraphDestroy", self.call("cudaStreamEndCapture", stream))
            raise
        graph = self.call("cudaStreamEndCapture", stream)
        try:
            return CudaGraph(self, self.call("cudaGraphInstantiate", graph, 0))
        finally:
            self.call("cudaGraphDestroy", graph)  # the executable graph stands alone

    def close(self) -> None:
        """Do nothing: the runtime API's primary context is shared with the whole process."""

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the package by name; raise BackendUnavailable for its error code."""
        status, *results = getattr(self._cuda, name)(*arguments)
        codes = self._cuda.cudaError_t
        if status != codes.cudaSuccess:
            _, text = self._cuda.cudaGetErrorString(status)
            reason = f"{name}: {text.decode() if text else status}"
            if status in (codes.cudaErrorInsufficientDriver, codes.cudaErrorNoDevice):
                raise _no_gpu(reason)
            raise BackendUnavailable(f"CUDA failed ({reason})")
        return results[0] if results else None


class CudaGraph:
    """A recorded run, which reads and writes the addresses that it was recorded with."""

    def __init__(self, memory: CudaPythonMemory, executable: Any) -> None:
        self._memory, self._executable = memory, executable

    def launch(self, stream: int) -> None:
        self._memory.call("cudaGraphLaunch", self._executable, stream)

    def close(self) -> None:
        """Release the graph, which must not be running."""
        self._memory.call("cudaGraphExecDestroy", self._executable)


class PycudaMemory:
    """The same by ``pycuda.driver``, which has objects with handles, and exceptions for errors."""

    def __init__(self, driver: Any) -> None:
        self._cuda = driver
        self._allocations: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}
        try:
            driver.init()
            if driver.Device.count() == 0:
                raise _no_gpu("the driver sees none")
            device = driver.Device(0)
            # The primary context is the one TensorRT's own runtime calls use.
            self._context = device.retain_primary_context()
            self._context.push()
        except driver.Error as error:
            raise _no_gpu(error) from error
        major, minor = device.compute_capability()
        self.compute_capability = (int(major), int(minor))
        self.name = str(device.name())
        self.driver = _driver_text(int(driver.get_driver_version()))

    def allocate(self, nbytes: int) -> int:
        allocation = self._call(self._cuda.mem_alloc, nbytes)
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        self._call(self._allocations.pop(address).free)

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> HostArray:
        array: HostArray = self._call(self._cuda.pagelocked_empty, shape, np.dtype(dtype))
        return array

    def free_pinned(self, array: HostArray) -> None:
        self._call(array.base.free)  # type: ignore[union-attr]  # what owns the array's memory

    def create_stream(self) -> int:
        stream = self._call(self._cuda.Stream)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        del self._streams[stream]  # pycuda destroys a stream with its last reference

    def synchronize(self, stream: int) -> None:
        self._call(self._streams[stream].synchronize)

    def copy_to_device(self, address: int, source: HostArray, stream: int) -> None:
        self._call(self._cuda.memcpy_htod_async, address, source, self._streams[stream])

    def copy_to_host(self, target: HostArray, address: int, stream: int) -> None:
        self._call(self._cuda.memcpy_dtoh_async, target, address, self._streams[stream])

    def capture(self, stream: int, work: Callable[[], None]) -> CudaGraph:
        fix = "install cuda-python too: pip install 'cuda-python>=12.6'; or leave cuda_graph out"
        raise BackendUnavailable("pycuda captures no CUDA graphs", fix=fix)

    def close(self) -> None:
        self._context.pop()  # else pycuda complains at the end of the process

    def _call(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._cuda.Error as error:
            raise BackendUnavailable(f"CUDA failed ({error})") from error


DeviceMemory = CudaPythonMemory | PycudaMemory


def _no_gpu(reason: object) -> BackendUnavailable:
    fix = "check nvidia-smi; install or update the driver"
    return BackendUnavailable(f"no NVIDIA GPU with a fitting driver ({reason})", fix=fix)


def _driver_text(cuda: int) -> str:
    """``13000`` and the kernel module's own version → ``580.95.05 (CUDA 13.0)``."""
    newest_cuda = f"CUDA {cuda // 1000}.{cuda % 1000 // 10}"
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:  # not Linux, or a container without it
        return newest_cuda
    found = re.search(r"Kernel Module\D*(\d+(?:\.\d+)+)", text)
    return f"{found.group(1)} ({newest_cuda})" if found else newest_cuda
