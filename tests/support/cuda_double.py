"""``cuda.bindings`` and ``pycuda.driver``, with "device" memory on the host."""

from __future__ import annotations

import ctypes
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np


class FakeHeap:
    """Blocks of host memory that are handed out by address, and must come back once."""

    def __init__(self) -> None:
        self.blocks: dict[int, Any] = {}

    def take(self, nbytes: int) -> int:
        block = ctypes.create_string_buffer(nbytes)
        self.blocks[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def give_back(self, address: int) -> None:
        del self.blocks[address]


class FakeGraphs:
    """What is started while a stream is captured is kept and not run."""

    def __init__(self) -> None:
        self.recording: list[Any] | None = None
        self.held: dict[str, list[Any]] = {}

    def start(self, work: Any) -> None:
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def begin(self, stream: int, mode: str) -> None:
        assert (stream, mode) == (7, "thread")
        self.recording = []

    def end(self, stream: int) -> str:
        return self._hold("graph", self.recording)

    def instantiate(self, graph: str) -> str:
        return self._hold("executable", self.held[graph])

    def _hold(self, kind: str, work: list[Any] | None) -> str:
        assert work is not None
        self.recording = None
        self.held[kind] = work
        return kind

    def launch(self, executable: str) -> None:
        for work in self.held[executable]:
            work()

    def destroy(self, handle: str) -> None:
        del self.held[handle]


_OF_ANY_THREAD = {
    *("cudaGetDeviceCount", "cudaDeviceGetAttribute", "cudaGetDeviceProperties"),
    *("cudaDriverGetVersion", "cudaDeviceGetPCIBusId", "cudaGetDevice"),
}


def fake_cuda_python(
    heap: FakeHeap, devices: int = 1, error: str = "", card: int = 0
) -> SimpleNamespace:
    """``cuda.bindings.runtime``; with ``error`` every call fails with that code.

    The current GPU is the calling thread's; what is done on a GPU must be done on that of ``card``.
    Its attribute ``driver`` is ``cuda.bindings.driver``, which changes the current GPU.
    """
    current = threading.local()
    codes = SimpleNamespace(
        cudaSuccess=0, cudaErrorNoDevice=100, cudaErrorInsufficientDriver=35, cudaErrorOther=2
    )
    graphs = FakeGraphs()
    attributes = SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor=8, cudaDevAttrComputeCapabilityMinor=6
    )
    kinds = SimpleNamespace(
        cudaMemcpyHostToDevice="up",
        cudaMemcpyDeviceToHost="down",
        cudaMemcpyDeviceToDevice="across",
    )
    moved: list[str] = []

    def copy(target: int, source: int, nbytes: int, kind: str, stream: int) -> None:
        moved.append(kind)
        ctypes.memmove(target, source, nbytes)

    calls = {
        "cudaGetDeviceCount": lambda: devices,
        "cudaGetDevice": lambda: getattr(current, "index", 0),
        "cudaDeviceGetPCIBusId": lambda length, index: f"0000:{65 + index}:00.0".encode() + b"\0",
        "cudaEventCreate": lambda: heap.take(8),
        "cudaEventDestroy": heap.give_back,
        "cudaEventRecord": lambda event, stream: None,
        "cudaEventSynchronize": lambda event: None,
        "cudaEventElapsedTime": lambda start, end: 2.5,
        "cudaDeviceGetAttribute": lambda attribute, index: attribute,
        "cudaGetDeviceProperties": lambda index: SimpleNamespace(name=b"NVIDIA Fake\0\0"),
        "cudaDriverGetVersion": lambda: 12040,
        "cudaMalloc": heap.take,
        "cudaMallocHost": heap.take,
        "cudaFree": heap.give_back,
        "cudaFreeHost": heap.give_back,
        "cudaStreamCreate": lambda: 7,
        "cudaStreamDestroy": lambda stream: None,
        "cudaStreamSynchronize": lambda stream: None,
        "cudaMemcpyAsync": lambda *copied: graphs.start(lambda: copy(*copied)),
        "cudaStreamBeginCapture": graphs.begin,
        "cudaStreamEndCapture": graphs.end,
        "cudaGraphInstantiate": lambda graph, flags: graphs.instantiate(graph),
        "cudaGraphLaunch": lambda executable, stream: graphs.launch(executable),
        "cudaGraphDestroy": graphs.destroy,
        "cudaGraphExecDestroy": graphs.destroy,
    }

    def answering(name: str, function: Any) -> Any:
        def call(*arguments: Any) -> tuple[Any, ...]:
            assert name in _OF_ANY_THREAD or getattr(current, "index", 0) == card
            if error == "RuntimeError":  # of cuda-python 12.6 without a driver
                raise RuntimeError("Failed to dlopen libcuda.so.1")
            if error:
                return getattr(codes, error), None
            result = function(*arguments)
            return (0,) if result is None else (0, result)

        return call

    module = SimpleNamespace(
        cudaError_t=codes,
        cudaDeviceAttr=attributes,
        cudaMemcpyKind=kinds,
        cudaStreamCaptureMode=SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread"),
        moved=moved,
        graphs=graphs,
    )
    for name, function in calls.items():
        setattr(module, name, answering(name, function))
    module.cudaGetErrorString = lambda status: (0, b"the reason")
    retained: list[int] = []

    def push(context: str) -> tuple[int]:
        assert retained and context == f"context of {retained[0]}"
        current.before, current.index = getattr(current, "index", 0), retained[0]
        return (0,)

    def pop() -> tuple[int, str]:
        current.index = current.before
        return 0, "context"

    module.driver = SimpleNamespace(
        CUresult=SimpleNamespace(CUDA_SUCCESS=0),
        cuDevicePrimaryCtxRetain=lambda i: (0, retained.append(i) or f"context of {i}"),
        cuDevicePrimaryCtxRelease=lambda i: (retained.remove(i) or 0,),
        cuCtxPushCurrent=push,
        cuCtxPopCurrent=pop,
        retained=retained,
    )
    return module


def fake_pycuda(heap: FakeHeap, devices: int = 1) -> SimpleNamespace:
    """``pycuda.driver``; a context is current in the thread that pushed it, until it pops it."""
    current = threading.local()

    def require_context() -> None:
        assert getattr(current, "stack", []), "invalid device context"

    class Allocation:
        def __init__(self, nbytes: int) -> None:
            require_context()
            self.address = heap.take(nbytes)

        def __int__(self) -> int:
            return self.address

        def free(self) -> None:
            heap.give_back(self.address)

    class Pinned(np.ndarray):
        """An array whose base has ``free``, as ``pagelocked_empty`` returns."""

        @property
        def base(self) -> Any:  # type: ignore[override]
            return SimpleNamespace(free=lambda: heap.give_back(self.ctypes.data))

    def pinned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        buffer = heap.blocks[heap.take(nbytes)]
        return np.frombuffer(buffer, np.uint8, nbytes).view(dtype).reshape(shape).view(Pinned)

    def push() -> None:
        current.stack = [*getattr(current, "stack", []), 1]

    def copy(target: int, source: int, nbytes: int) -> None:
        require_context()
        ctypes.memmove(target, source, nbytes)

    context = SimpleNamespace(push=push, pop=lambda: current.stack.pop())
    device = SimpleNamespace(
        retain_primary_context=lambda: context,
        compute_capability=lambda: (6, 1),
        name=lambda: "NVIDIA Fake",
        pci_bus_id=lambda: "0000:65:00.0",
    )

    class Event:
        def __init__(self) -> None:
            require_context()

        def record(self, stream: Any) -> None:
            require_context()

        def synchronize(self) -> None:
            require_context()

        def time_since(self, start: Any) -> float:
            return 2.5

    return SimpleNamespace(
        Error=RuntimeError,
        init=lambda: None,
        Device=type(
            "Device", (), {"count": staticmethod(lambda: devices), "__new__": lambda *_: device}
        ),
        Event=Event,
        get_driver_version=lambda: 12040,
        mem_alloc=Allocation,
        pagelocked_empty=pinned,
        Stream=lambda: SimpleNamespace(handle=7, synchronize=lambda: None),
        memcpy_htod_async=lambda to, array, stream: copy(to, array.ctypes.data, array.nbytes),
        memcpy_dtod_async=lambda to, source, nbytes, stream: copy(to, source, nbytes),
        memcpy_dtoh_async=lambda array, at, stream: copy(array.ctypes.data, at, array.nbytes),
        depth=lambda: len(getattr(current, "stack", [])),
    )
