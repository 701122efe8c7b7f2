"""The two packages behind DeviceMemory, each against a fake that keeps "device" memory on the host.

The names and the argument types of cuda-python are checked against the real package as well.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from dabnet.errors import BackendUnavailable
from dabnet.runtime.cuda import (
    CudaPythonMemory,
    DeviceMemory,
    PycudaMemory,
    gpu_unavailable_reason,
    open_device_memory,
)
from tests.support.cuda_double import FakeHeap, fake_cuda_python, fake_pycuda


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


def test_a_graph_repeats_what_was_started() -> None:
    module = fake_cuda_python(FakeHeap())
    memory = CudaPythonMemory(module)
    stream, address = memory.create_stream(), memory.allocate(4)
    up, down = memory.pinned((4,), np.uint8), memory.pinned((4,), np.uint8)
    down[...] = 0

    def work() -> None:
        memory.copy_to_device(address, up, stream)
        memory.copy_to_host(down, address, stream)

    up[...] = 1
    graph = memory.capture(stream, work)
    assert not down.any()  # recorded, and not run
    for value in (2, 3):
        up[...] = value
        graph.launch(stream)
        assert (down == value).all()
    assert list(module.graphs.held) == ["executable"]
    graph.close()
    assert not module.graphs.held

    def fail() -> None:
        raise BackendUnavailable("TensorRT could not start a run")

    with pytest.raises(BackendUnavailable, match="could not start"):
        memory.capture(stream, fail)
    assert module.graphs.recording is None  # the stream can be used again
    assert not module.graphs.held


def test_pycuda() -> None:
    heap = FakeHeap()
    module = fake_pycuda(heap)
    memory = PycudaMemory(module)
    assert (memory.name, memory.compute_capability) == ("NVIDIA Fake", (6, 1))
    assert len(module.stack) == 1
    with pytest.raises(BackendUnavailable, match=r"no CUDA graphs.*cuda-python.*cuda_graph out"):
        memory.capture(7, lambda: None)
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
    with pytest.raises(BackendUnavailable, match="fitting driver .the driver sees none"):
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
    mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    graph, executable = runtime.cudaGraph_t(), runtime.cudaGraphExec_t()
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
        "cudaStreamBeginCapture": (4096, mode),
        "cudaStreamEndCapture": (4096,),
        "cudaGraphInstantiate": (graph, 0),
        "cudaGraphLaunch": (executable, 4096),
        "cudaGraphDestroy": (graph,),
        "cudaGraphExecDestroy": (executable,),
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
