"""The two packages behind DeviceMemory, each against a fake that keeps "device" memory on the host.

The names and the argument types of cuda-python are checked against the real package as well.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dabnet.errors import BackendUnavailable
from dabnet.runtime import cuda
from dabnet.runtime.cuda import (
    CudaPythonMemory,
    DeviceMemory,
    PycudaMemory,
    gpu_unavailable_reason,
    open_device_memory,
)
from tests.support.cuda_double import FakeHeap, fake_cuda_python, fake_pycuda
from tests.support.processes import run_python


def round_trip(memory: DeviceMemory) -> None:
    """In a thread of its own, as a server or the timer of several streams calls."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_round_trip, memory).result()
    memory.close()


def _round_trip(memory: DeviceMemory) -> None:
    with memory.active():
        _copies(memory)


def _copies(memory: DeviceMemory) -> None:
    stream, start, end = memory.create_stream(), memory.create_event(), memory.create_event()
    up, down = memory.pinned((2, 3), np.int32), memory.pinned((2, 3), np.int32)
    assert up.dtype == np.int32
    assert up.flags.c_contiguous
    up[...] = np.arange(6).reshape(2, 3)
    down[...] = 0
    first, second = memory.allocate(up.nbytes), memory.allocate(up.nbytes)
    memory.record(start, stream)
    memory.copy_to_device(first, up, stream)
    memory.copy_on_device(second, first, up.nbytes, stream)
    memory.copy_to_host(down, second, stream)
    memory.record(end, stream)
    memory.synchronize(stream)
    assert memory.elapsed_s(start, end) > 0
    np.testing.assert_array_equal(down, np.arange(6).reshape(2, 3))
    memory.free(first)
    memory.free(second)
    memory.free_pinned(up)
    memory.free_pinned(down)
    memory.destroy_event(start)
    memory.destroy_event(end)
    memory.destroy_stream(stream)


def test_cuda_python(monkeypatch: pytest.MonkeyPatch) -> None:
    heap = FakeHeap()
    module = fake_cuda_python(heap, devices=2, card=1)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", module.driver)
    memory = CudaPythonMemory(module, 1)
    assert (memory.name, memory.compute_capability) == ("NVIDIA Fake", (8, 6))
    assert memory.pci_bus_id == "0000:66:00.0"
    assert "CUDA 12.4" in memory.driver
    round_trip(memory)
    assert module.moved == ["up", "across", "down"]
    assert not heap.blocks
    assert module.driver.retained == []
    with memory.active():
        assert module.cudaGetDevice() == (0, 1)
    assert module.cudaGetDevice() == (0, 0)  # as the thread had it
    with pytest.raises(BackendUnavailable, match=r"no GPU cuda:2; expected .*cuda:0 to cuda:1"):
        CudaPythonMemory(module, 2)


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
    assert module.depth() == 0  # pycuda ends a process that leaves a context behind
    with pytest.raises(BackendUnavailable, match=r"no CUDA graphs.*cuda-python.*cuda_graph out"):
        memory.capture(7, lambda: None)
    round_trip(memory)
    assert not heap.blocks
    with pytest.raises(ValueError), PycudaMemory(module).active():
        assert module.depth() == 1
        raise ValueError
    assert module.depth() == 0
    with pytest.raises(BackendUnavailable, match=r"no GPU cuda:1; expected .*cuda:0 to cuda:0"):
        PycudaMemory(module, 1)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("cudaErrorInsufficientDriver", "no NVIDIA GPU with a fitting driver.*the reason"),
        ("cudaErrorNoDevice", "no NVIDIA GPU with a fitting driver.*the reason"),
        ("RuntimeError", "no NVIDIA GPU with a fitting driver.*libcuda"),
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
        PycudaMemory(module).allocate(1)  # fails before it looks for a context
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
        "cudaGetDevice": (),
        "cudaDeviceGetPCIBusId": (32, 0),
        "cudaEventCreate": (),
        "cudaEventRecord": (4096, 4096),
        "cudaEventSynchronize": (4096,),
        "cudaEventElapsedTime": (4096, 8192),
        "cudaEventDestroy": (4096,),
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
    driver = pytest.importorskip("cuda.bindings.driver")
    for name, words in {
        "cuDevicePrimaryCtxRetain": (1,),
        "cuDevicePrimaryCtxRelease": (1,),
        "cuCtxPushCurrent": (driver.CUcontext(),),
        "cuCtxPopCurrent": (),
    }.items():
        with pytest.raises(RuntimeError, match="driver"):  # that there is none
            getattr(driver, name)(*words)


@pytest.mark.parametrize(
    "line",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23 10:11:16 UTC 2025",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build",
    ],
)
def test_the_driver_is_known_with_closed_and_open_modules(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str
) -> None:
    file = tmp_path / "version"
    file.write_text(f"{line}\nGCC version: gcc version 12.3.0 (Ubuntu)\n", encoding="utf-8")
    monkeypatch.setattr(cuda, "VERSION_FILE", file)
    assert CudaPythonMemory(fake_cuda_python(FakeHeap())).driver == "580.95.05 (CUDA 12.4)"


LEFT_OPEN = """
import atexit
from contextlib import ExitStack
closed = []
atexit.register(lambda: print(*closed))  # of all that is registered, the last to run
from dabnet.runtime.cuda import close_at_exit
first, second = ExitStack(), ExitStack()
for name, held in (("first", first), ("second", second)):
    held.callback(closed.append, name)
    close_at_exit(held)
first.close()
failing = ExitStack()
failing.callback(int, "no number")
close_at_exit(failing)
"""


def test_what_was_never_closed_is_closed_at_exit() -> None:
    done = run_python(LEFT_OPEN)
    assert (done.stdout.split(), done.stderr) == (["first", "second"], "")


@pytest.mark.gpu
def test_round_trip_on_a_gpu() -> None:
    if reason := gpu_unavailable_reason():
        pytest.skip(reason)
    memory = open_device_memory()
    assert memory.name
    assert memory.compute_capability >= (5, 0)
    round_trip(memory)
