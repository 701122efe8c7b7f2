"""A GPU, as runners need it, without torch: memory, copies, streams, events and CUDA graphs.

Two packages can give them: ``cuda.bindings.runtime`` (cuda-python; wheels, imports without a
driver; https://nvidia.github.io/cuda-python/cuda-bindings/latest/module/runtime.html) and, where
that is absent, ``pycuda`` (https://documen.tician.de/pycuda/driver.html). Addresses, streams and
events are plain integers, which is what TensorRT takes.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dabnet.errors import PASCAL_STACK, BackendUnavailable

HostArray = NDArray[Any]

_PCI_TEXT_BYTES = 32


def open_device_memory(index: int = 0) -> DeviceMemory:
    """Open a GPU, by CUDA's number, through cuda-python, or else through pycuda.

    Raises:
        BackendUnavailable: there is no package, no driver or no such GPU; one line says which.
    """
    with suppress(ImportError):
        return CudaPythonMemory(importlib.import_module("cuda.bindings.runtime"), index)
    try:
        return PycudaMemory(importlib.import_module("pycuda.driver"), index)
    except ImportError as error:
        # pycuda without a driver fails to load libcuda.so.1, which is an ImportError too.
        if "libcuda" in str(error):
            fix = "install the NVIDIA driver"
            raise BackendUnavailable(f"no NVIDIA driver ({error})", fix=fix) from error
    raise BackendUnavailable(
        "neither 'cuda.bindings' (cuda-python) nor 'pycuda' is installed",
        fix=f"pip install '.[gpu]' or '.[rtx]'; for the GTX 10 series {PASCAL_STACK}",
    )


def gpu_unavailable_reason(index: int = 0) -> str | None:
    """Return why the GPU cannot be used, in one line; None if it can."""
    try:
        open_device_memory(index).close()
    except BackendUnavailable as error:
        return str(error)
    return None


class CudaPythonMemory:
    """A GPU by ``cuda.bindings``, whose calls return (error, results…).

    All but the attributes is to be used inside ``active``.

    Attributes:
        name: such as ``NVIDIA GeForce GTX 1080 Ti``.
        compute_capability: (major, minor).
        driver: its version and the newest CUDA it serves, such as ``580.95.05 (CUDA 13.0)``.
        pci_bus_id: such as ``0000:65:00.0``, by which NVML finds the same card.
    """

    def __init__(self, runtime: Any, index: int = 0) -> None:
        self._cuda, self._index = runtime, index
        self._context: Any = None  # of another GPU than the first
        self._pinned: dict[int, int] = {}
        _require(index, int(self.call("cudaGetDeviceCount")))
        kinds, prefix = runtime.cudaDeviceAttr, "cudaDevAttrComputeCapability"
        major, minor = (
            int(self.call("cudaDeviceGetAttribute", getattr(kinds, prefix + part), index))
            for part in ("Major", "Minor")
        )
        self.compute_capability = (major, minor)
        self.name = self.call("cudaGetDeviceProperties", index).name.decode().strip("\0 ")
        self.driver = _driver_text(int(self.call("cudaDriverGetVersion")))
        pci = self.call("cudaDeviceGetPCIBusId", _PCI_TEXT_BYTES, index)
        self.pci_bus_id = pci.decode().strip("\0 ")

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the GPU that of the calling thread, for TensorRT's own calls too.

        CUDA keeps a current GPU for each thread, at first the one of number 0. Another is pushed
        and popped: to set the one before again would open a context on it
        (https://github.com/pytorch/pytorch/issues/94864).
        """
        if int(self.call("cudaGetDevice")) == self._index:
            yield
            return
        if self._context is None:
            self._context = self._drive("cuDevicePrimaryCtxRetain", self._index)
        self._drive("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._drive("cuCtxPopCurrent")

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

    def create_event(self) -> int:
        return int(self.call("cudaEventCreate"))

    def destroy_event(self, event: int) -> None:
        self.call("cudaEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        """Have the GPU note the time when it has done all that was started on ``stream``."""
        self.call("cudaEventRecord", event, stream)

    def elapsed_s(self, start: int, end: int) -> float:
        """Seconds of the GPU between two recorded events; waits for the second."""
        self.call("cudaEventSynchronize", end)
        return 1e-3 * float(self.call("cudaEventElapsedTime", start, end))

    def copy_to_device(self, address: int, source: HostArray, stream: int) -> None:
        """Start a copy of all of ``source`` (C-contiguous; asynchronous if pinned)."""
        way = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, way, stream)

    def copy_on_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Start a copy from one address to another."""
        way = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self.call("cudaMemcpyAsync", target, source, nbytes, way, stream)

    def copy_to_host(self, target: HostArray, address: int, stream: int) -> None:
        """Start a copy that fills all of ``target`` (C-contiguous; asynchronous if pinned)."""
        way = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, way, stream)

    def capture(self, stream: int, work: Callable[[], None]) -> CudaGraph:
        """Record what ``work`` starts on ``stream``, without running it.

        Other threads may allocate meanwhile; this one must not.
        """
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        collecting = gc.isenabled()
        gc.disable()  # memory that a collection frees in this thread would break the capture
        self.call("cudaStreamBeginCapture", stream, mode)
        try:
            work()
        except BaseException:
            with suppress(BackendUnavailable):  # only so that the stream can be used again
                self.call("cudaGraphDestroy", self.call("cudaStreamEndCapture", stream))
            raise
        finally:
            if collecting:
                gc.enable()
        graph = self.call("cudaStreamEndCapture", stream)
        try:
            return CudaGraph(self, self.call("cudaGraphInstantiate", graph, 0))
        finally:
            self.call("cudaGraphDestroy", graph)  # the executable graph stands alone

    def close(self) -> None:
        """Let go of the primary context, which the whole process shares."""
        if self._context is not None:
            self._context = None
            self._drive("cuDevicePrimaryCtxRelease", self._index)

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the package by name; raise BackendUnavailable for its error code."""
        try:
            status, *results = getattr(self._cuda, name)(*arguments)
        except RuntimeError as error:  # of cuda-python 12.6 without libcuda.so.1
            raise _no_gpu(error) from error
        codes = self._cuda.cudaError_t
        if status != codes.cudaSuccess:
            _, text = self._cuda.cudaGetErrorString(status)
            reason = f"{name}: {text.decode() if text else status}"
            if status in (codes.cudaErrorInsufficientDriver, codes.cudaErrorNoDevice):
                raise _no_gpu(reason)
            raise BackendUnavailable(f"CUDA failed ({reason})")
        return results[0] if results else None

    def _drive(self, name: str, *arguments: Any) -> Any:
        """The same of the driver API."""
        driver = importlib.import_module("cuda.bindings.driver")
        status, *results = getattr(driver, name)(*arguments)
        if status != driver.CUresult.CUDA_SUCCESS:
            raise BackendUnavailable(f"CUDA failed ({name}: {status})")
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
    """The same by ``pycuda.driver``, which has objects with handles, and exceptions for errors.

    Its contexts lie on a stack for each thread, and pycuda ends the process with abort() if one is
    not empty when its thread ends (``context_stack`` in pycuda's cuda.hpp). So ``active`` pushes
    the context and pops it again.
    """

    def __init__(self, driver: Any, index: int = 0) -> None:
        self._cuda = driver
        self._held: dict[int, Any] = {}  # allocations, streams and events, by address or handle
        try:
            driver.init()
            _require(index, driver.Device.count())
            device = driver.Device(index)
            # The primary context is the one TensorRT's own runtime calls use.
            self._context = device.retain_primary_context()
        except driver.Error as error:
            raise _no_gpu(error) from error
        major, minor = device.compute_capability()
        self.compute_capability = (int(major), int(minor))
        self.name = str(device.name())
        self.driver = _driver_text(int(driver.get_driver_version()))
        self.pci_bus_id = str(device.pci_bus_id())

    @contextmanager
    def active(self) -> Iterator[None]:
        self._call(self._context.push)
        try:
            yield
        finally:
            self._call(self._context.pop)

    def allocate(self, nbytes: int) -> int:
        allocation = self._call(self._cuda.mem_alloc, nbytes)
        return self._hold(int(allocation), allocation)

    def free(self, address: int) -> None:
        self._call(self._held.pop(address).free)

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> HostArray:
        array: HostArray = self._call(self._cuda.pagelocked_empty, shape, np.dtype(dtype))
        return array

    def free_pinned(self, array: HostArray) -> None:
        self._call(array.base.free)  # type: ignore[union-attr]  # what owns the array's memory

    def create_stream(self) -> int:
        stream = self._call(self._cuda.Stream)
        return self._hold(int(stream.handle), stream)

    def destroy_stream(self, stream: int) -> None:
        del self._held[stream]  # pycuda destroys a stream with its last reference

    def synchronize(self, stream: int) -> None:
        self._call(self._held[stream].synchronize)

    def create_event(self) -> int:
        event = self._call(self._cuda.Event)
        return self._hold(id(event), event)  # pycuda does not tell an event's handle

    def destroy_event(self, event: int) -> None:
        del self._held[event]

    def record(self, event: int, stream: int) -> None:
        self._call(self._held[event].record, self._held[stream])

    def elapsed_s(self, start: int, end: int) -> float:
        self._call(self._held[end].synchronize)
        return 1e-3 * float(self._call(self._held[end].time_since, self._held[start]))

    def copy_to_device(self, address: int, source: HostArray, stream: int) -> None:
        self._call(self._cuda.memcpy_htod_async, address, source, self._held[stream])

    def copy_on_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        self._call(self._cuda.memcpy_dtod_async, target, source, nbytes, self._held[stream])

    def copy_to_host(self, target: HostArray, address: int, stream: int) -> None:
        self._call(self._cuda.memcpy_dtoh_async, target, address, self._held[stream])

    def capture(self, stream: int, work: Callable[[], None]) -> CudaGraph:
        fix = "install cuda-python too: pip install 'cuda-python>=12.6.1'; or leave cuda_graph out"
        raise BackendUnavailable("pycuda captures no CUDA graphs", fix=fix)

    def close(self) -> None:
        """Release the context; everything in it must have been released before."""
        self._context = None

    def _hold(self, handle: int, item: Any) -> int:
        self._held[handle] = item
        return handle

    def _call(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._cuda.Error as error:
            raise BackendUnavailable(f"CUDA failed ({error})") from error


DeviceMemory = CudaPythonMemory | PycudaMemory

_open: WeakSet[ExitStack] = WeakSet()


def close_at_exit(held: ExitStack) -> None:
    """Have ``held`` closed before the interpreter ends, if it still lives and nobody closed it.

    What lies on a GPU must go before the libraries that made it: later its release would fail, or
    end the process with a signal.
    """
    _open.add(held)


@atexit.register
def _close_what_is_open() -> None:
    for held in list(_open):
        with suppress(Exception):  # nobody is left to be told
            held.close()


def _require(index: int, count: int) -> None:
    """Raise BackendUnavailable unless there is a GPU of that number."""
    if count == 0:
        raise _no_gpu("the driver sees none")
    if index >= count:
        raise BackendUnavailable(
            f"there is no GPU cuda:{index}",
            f"one of the {count} that CUDA sees, cuda:0 to cuda:{count - 1}",
            "check CUDA_VISIBLE_DEVICES and nvidia-smi -L",
        )


def _no_gpu(reason: object) -> BackendUnavailable:
    fix = "check nvidia-smi; install or update the driver"
    return BackendUnavailable(f"no NVIDIA GPU with a fitting driver ({reason})", fix=fix)


VERSION_FILE = Path("/proc/driver/nvidia/version")


def _driver_text(cuda: int) -> str:
    """``13000`` and the kernel module's own version → ``580.95.05 (CUDA 13.0)``.

    Its line is ``… UNIX x86_64 Kernel Module  580.95.05  …`` or, of the open modules,
    ``… UNIX Open Kernel Module for x86_64  580.95.05  …``.
    """
    newest_cuda = f"CUDA {cuda // 1000}.{cuda % 1000 // 10}"
    try:
        text = VERSION_FILE.read_text(encoding="utf-8")
    except OSError:  # not Linux, or a container without it
        return newest_cuda
    found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", text)
    return f"{found.group(1)} ({newest_cuda})" if found else newest_cuda
