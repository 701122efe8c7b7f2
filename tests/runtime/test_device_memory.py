"""The two packages behind DeviceMemory, each against a fake that keeps "device" memory on the host.

The names and the argument types of cuda-python are checked against the real package as well.
"""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dabnet.errors import BackendUnavailable
from dabnet.runtime.device_memory import (
    CudaPythonMemory,
    DeviceMemory,
    PycudaMemory,
    gpu_unavailable_reason,
    open_device_memory,
)


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


def fake_cuda_python(heap: FakeHeap, devices: int = 1, error: str = "") -> SimpleNamespace:
    """``cuda.bindings.runtime``; with ``error`` every call fails with that code."""
    codes = SimpleNamespace(
        cudaSuccess=0, cudaErrorNoDevice=100, cudaErrorInsufficientDriver=35, cudaErrorOther=2
    )
    attributes = SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor=8, cudaDevAttrComputeCapabilityMinor=6
    )
    kinds = SimpleNamespace(cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down")
    moved: list[str] = []

    def copy(target: int, source: int, nbytes: int, kind: str, stream: int) -> None:
        moved.append(kind)
        ctypes.memmove(target, source, nbytes)

    calls = {
        "cudaGetDeviceCount": lambda: devices,
        "cudaSetDevice": lambda index: None,
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
        "cudaMemcpyAsync": copy,
    }

    def answering(function: Any) -> Any:
        def call(*arguments: Any) -> tuple[Any, ...]:
            if error:
                return getattr(codes, error), None
            result = function(*arguments)
            return (0,) if result is None else (0, result)

        return call

    module = SimpleNamespace(
        cudaError_t=codes, cudaDeviceAttr=attributes, cudaMemcpyKind=kinds, moved=moved
    )
    for name, function in calls.items():
        setattr(module, name, answering(function))
    module.cudaGetErrorString = lambda status: (0, b"the reason")
    return module


def fake_pycuda(heap: FakeHeap) -> SimpleNamespace:
    class Allocation:
        def __init__(self, nbytes: int) -> None:
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

    stack: list[Any] = []
    context = SimpleNamespace(push=lambda: stack.append(1), pop=lambda: stack.pop())
    device = SimpleNamespace(
        retain_primary_context=lambda: context,
        compute_capability=lambda: (6, 1),
        name=lambda: "NVIDIA Fake",
    )
    return SimpleNamespace(
        Error=RuntimeError,
        init=lambda: None,
        Device=type("Device", (), {"count": staticmethod(lambda: 1), "__new__": lambda *_: device}),
        get_driver_version=lambda: 12040,
        mem_alloc=Allocation,
        pagelocked_empty=pinned,
        Stream=lambda: SimpleNamespace(handle=7, synchronize=lambda: None),
        memcpy_htod_async=lambda address, array, stream: ctypes.memmove(
            address, array.ctypes.data, array.nbytes
        ),
        memcpy_dtoh_async=lambda array, address, stream: ctypes.memmove(
            array.ctypes.data, address, array.nbytes
        ),
        stack=stack,
    )


def round_trip(memory: DeviceMemory) -> None:
    stream = memory.create_stream()
    up, down = memory.pinned((2, 3), np.int32), memory.pinned((2, 3), np.int32)
    assert up.dtype == np.int32
    assert up.flags.c_contiguous
    up[...] = np.arange(6).reshape(2, 3)
    down[...] = 0
    address = memory.allocate(up.nbytes)
    memory.copy_to_device(address, up, stream)
    memory.copy_to_host(down, address, stream)
    memory.synchronize(stream)
    np.testing.assert_array_equal(down, np.arange(6).reshape(2, 3))
    memory.free(address)
    memory.free_pinned(up)
    memory.free_pinned(down)
    memory.destroy_stream(stream)
    memory.close()


def test_cuda_python() -> None:
    heap = FakeHeap()
    module = fake_cuda_python(heap)
    memory = CudaPythonMemory(module)
    assert (memory.name, memory.compute_capability) == ("NVIDIA Fake", (8, 6))
    assert "CUDA 12.4" in memory.driver
    round_trip(memory)
    assert module.moved == ["up", "down"]
    assert not heap.blocks


def test_pycuda() -> None:
    heap = FakeHeap()
    module = fake_pycuda(heap)
    memory = PycudaMemory(module)
    assert (memory.name, memory.compute_capability) == ("NVIDIA Fake", (6, 1))
    assert len(module.stack) == 1
    round_trip(memory)
    assert not heap.blocks
    assert not module.stack


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("cudaErrorInsufficientDriver", "no NVIDIA GPU with a fitting driver.*the reason"),
        ("cudaErrorNoDevice", "no NVIDIA GPU with a fitting driver.*the reason"),
        ("cudaErrorOther", r"CUDA failed \(cudaGetDeviceCount: the reason\)"),
    ],
)
def test_cuda_errors_are_told(error: str, message: str) -> None:
    with pytest.raises(BackendUnavailable, match=message):
        CudaPythonMemory(fake_cuda_python(FakeHeap(), error=error))


def test_no_device() -> None:
    with pytest.raises(BackendUnavailable, match="the driver sees no NVIDIA GPU"):
        CudaPythonMemory(fake_cuda_python(FakeHeap(), devices=0))


def test_pycuda_errors_are_told() -> None:
    module = fake_pycuda(FakeHeap())

    def fail(*_: object) -> None:
        raise module.Error("cuInit failed: no CUDA-capable device")

    module.mem_alloc = fail
    with pytest.raises(BackendUnavailable, match="CUDA failed .cuInit failed"):
        PycudaMemory(module).allocate(1)
    module.init = fail
    with pytest.raises(BackendUnavailable, match="fitting driver .cuInit failed"):
        PycudaMemory(module)


def test_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda.bindings.runtime", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailable, match=r"neither .*\[gpu\].*\[pascal\]"):
        open_device_memory()
    reason = gpu_unavailable_reason()
    assert reason is not None
    assert "\n" not in reason


def test_cuda_python_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_cuda_python(FakeHeap())
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(runtime=fake))
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace())
    assert gpu_unavailable_reason() is None


def test_real_cuda_python_takes_our_arguments() -> None:
    """Without a driver each call must fail by its code; a TypeError would be our fault."""
    runtime = pytest.importorskip("cuda.bindings.runtime")
    fake = fake_cuda_python(FakeHeap())
    names = [name for name in vars(fake) if name.startswith("cuda")]
    assert [name for name in names if not hasattr(runtime, name)] == []
    if gpu_unavailable_reason() is None:
        pytest.skip("these addresses are not for a real device")
    host = np.zeros(16, np.uint8).ctypes.data
    kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
    major = runtime.cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor
    for name, arguments in {
        "cudaSetDevice": (0,),
        "cudaDeviceGetAttribute": (major, 0),
        "cudaMalloc": (16,),
        "cudaFree": (4096,),
        "cudaFreeHost": (host,),
        "cudaStreamDestroy": (4096,),
        "cudaStreamSynchronize": (4096,),
        "cudaMemcpyAsync": (4096, host, 16, kind, 4096),
    }.items():
        status = getattr(runtime, name)(*arguments)[0]
        assert status != runtime.cudaError_t.cudaSuccess


@pytest.mark.gpu
def test_round_trip_on_a_gpu() -> None:
    if reason := gpu_unavailable_reason():
        pytest.skip(reason)
    memory = open_device_memory()
    assert memory.name
    assert memory.compute_capability >= (5, 0)
    round_trip(memory)
