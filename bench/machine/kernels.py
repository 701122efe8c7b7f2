"""Micro-kernels of known work, at sizes that suit a processor or a GPU.

Which kernel is best depends on the processor: torch multiplies matrices with the library of its
maker, and onnxruntime's convolution is what onnxruntime's rows are made of. A product that torch
lacks on a card (int8 on Pascal) raises, and is not measured.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dabnet.precision import BF16, FP16, FP32, INT8, PRECISIONS

# Kinds of kernels that move memory, and memory that lies in a GPU's cache; the kind of the others
# is the precision of their arithmetic.
BYTES, CACHE_BYTES = "bytes", "bytes in the cache"
Call = Callable[[], float]  # one call of a kernel; returns its seconds
_LEAST_REPEATS = 3

CPU_ELEMENTS = 64 * 2**20  # float32: 256 MiB, more than the caches of most servers
PIECES = 4  # each call moves the next one, when the caches have long lost it
CHANNELS, IMAGE = 64, 64
# Multiply-adds that keep one thread busy for about a millisecond, so that some calls of many find
# all cores free even if other processes use them, too.
FP32_WORK, INT8_WORK = 2**26, 2**28

GPU_BYTES = 256 * 2**20  # far more than the second-level cache of any card
GPU_SIDES = (4096, 8192)
# Part of the cache that copies fill; the rate of the best counts. Some cards have a cache of two
# halves, each of which may hold what the other holds.
CACHE_PARTS = (2, 4)
LINE, WIDEST = 128, 16  # bytes of a line, and of the most that a thread moves at a time


@dataclass(frozen=True, slots=True)
class PeakKernel:
    """One micro-kernel."""

    name: str
    kind: str  # ``BYTES``, ``CACHE_BYTES`` (read and written), or precision of its multiply-adds
    work: float  # bytes or multiply-adds per call
    prepare: Callable[[], Call]  # makes its tensors; raises where a library or device cannot do it

    def best_rate(self, budget_s: float) -> float:
        """Work per second of the fastest call within a budget of time; at least one is made."""
        call = self.prepare()
        start = time.perf_counter()
        seconds = call()  # allocates and chooses an algorithm; if it is slow it must do
        repeats = 0
        while (spent := time.perf_counter() - start) < budget_s or repeats < _LEAST_REPEATS:
            if spent + seconds > 2 * budget_s:
                break
            seconds = min(seconds, call())
            repeats += 1
        return self.work / seconds


def cpu_kernels(threads: int) -> tuple[PeakKernel, ...]:
    """Kernels of a processor that use ``threads`` threads each."""
    batch = max(1, threads // 2)  # enough rows for every thread
    convolutions = 2 * batch * 9 * (CHANNELS * IMAGE) ** 2
    side, side8 = _side(threads * FP32_WORK), _side(threads * INT8_WORK)
    # A processor reads what a plain copy is about to overwrite, and that is traffic which does no
    # work: changing an array in place has none, and gives more.
    moved = 2 * 4 * CPU_ELEMENTS // PIECES
    # What a processor does not multiply itself is slow here, and FP32's peak is then the higher.
    wide = 2 * batch * 9 * (2 * CHANNELS * IMAGE) ** 2
    halves = [
        kernel
        for kind in (BF16, FP16)
        for kernel in (
            PeakKernel(
                f"torch mm {kind}", kind, side8**3, partial(_product, "cpu", kind, side8, threads)
            ),
            PeakKernel(
                f"torch conv {kind}", kind, wide, partial(_torch_conv, threads, 2 * batch, kind)
            ),
        )
    ]
    return (
        PeakKernel("torch in place", BYTES, moved, partial(_in_place, threads)),
        PeakKernel("torch copy", BYTES, moved, partial(_copy, threads)),
        PeakKernel("torch mm", FP32, side**3, partial(_product, "cpu", FP32, side, threads)),
        PeakKernel("onnxruntime MatMul", FP32, side**3, partial(_ort_product, threads, side)),
        PeakKernel("onnxruntime Conv", FP32, convolutions, partial(_ort_conv, threads, batch)),
        *halves,
        PeakKernel("torch int_mm", INT8, side8**3, partial(_product, "cpu", INT8, side8, threads)),
        PeakKernel("onnxruntime MatMulInteger", INT8, side8**3, partial(_ort_int8, threads, side8)),
    )


def gpu_kernels(index: int = 0) -> tuple[PeakKernel, ...]:
    """Kernels of a GPU, which becomes torch's current one: copies, and products.

    FP32 is without TF32, as in every row.
    """
    import torch

    torch.cuda.set_device(index)
    products = (
        PeakKernel(
            f"{kind} product of {side}", kind, side**3, partial(_product, "cuda", kind, side)
        )
        for kind in (FP32, FP16, INT8)
        for side in GPU_SIDES
    )
    size = gpu_cache_bytes(index)
    copies = [_cache_copies(size // part) for part in CACHE_PARTS] if size else []
    return (PeakKernel("copy", BYTES, 2 * GPU_BYTES, _gpu_copy), *copies, *products)


def gpu_cache_bytes(index: int) -> int:
    """Size of the second-level cache; 0 with an older torch, which does not tell."""
    import torch

    return int(getattr(torch.cuda.get_device_properties(index), "L2_cache_size", 0))


# --- processor --------------------------------------------------------------------------------


def _side(multiply_adds: int) -> int:
    """Side of square matrices whose product has at least so many; a power of two from 256 on."""
    return max(256, 1 << math.ceil(math.log2(multiply_adds) / 3))


def _by_clock(work: Callable[[], object]) -> Call:
    def call() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return call


def _torch(threads: int) -> Any:
    import torch

    torch.set_num_threads(threads)
    return torch


def _in_place(threads: int) -> Call:
    pieces = itertools.cycle(_torch(threads).zeros(CPU_ELEMENTS).chunk(PIECES))
    return _by_clock(lambda: next(pieces).add_(1))


def _copy(threads: int) -> Call:
    torch = _torch(threads)
    sources = itertools.cycle(torch.ones(CPU_ELEMENTS).chunk(PIECES))
    targets = itertools.cycle(torch.zeros(CPU_ELEMENTS).chunk(PIECES))
    return _by_clock(lambda: next(targets).copy_(next(sources)))


def _torch_conv(threads: int, batch: int, kind: str) -> Call:
    torch = _torch(threads)
    like = {"dtype": getattr(torch, PRECISIONS[kind].dtype), "memory_format": torch.channels_last}
    image, weights = (
        torch.rand(shape).to(**like)
        for shape in ((batch, 2 * CHANNELS, IMAGE, IMAGE), (2 * CHANNELS, 2 * CHANNELS, 3, 3))
    )
    return _by_clock(lambda: torch.nn.functional.conv2d(image, weights, padding=1))


def _ort_product(threads: int, side: int) -> Call:
    matrix = np.random.default_rng(0).random((side, side), np.float32)
    return _ort_call("float", "float", "y = MatMul(x, w)", matrix, matrix, threads)


def _ort_int8(threads: int, side: int) -> Call:
    random = np.random.default_rng(0)
    data = random.integers(0, 128, (side, side), np.uint8)
    weights = random.integers(-127, 128, (side, side), np.int8)
    return _ort_call("uint8", "int32", "y = MatMulInteger(x, w)", data, weights, threads)


def _ort_conv(threads: int, batch: int) -> Call:
    random = np.random.default_rng(0)
    image = random.random((batch, CHANNELS, IMAGE, IMAGE), np.float32)
    weights = random.random((CHANNELS, CHANNELS, 3, 3), np.float32) / (9 * CHANNELS)
    conv = "Conv <pads = [1, 1, 1, 1]>"
    nodes = f"z = {conv} (x, w) y = {conv} (z, w)"
    return _ort_call("float", "float", nodes, image, weights, threads)


def _ort_call(
    given: str, returned: str, nodes: str, data: NDArray[Any], weights: NDArray[Any], threads: int
) -> Call:
    """A session over ``x`` and the constant ``w``, from ONNX's textual syntax."""
    import onnxruntime
    from onnx import numpy_helper, parser

    shape = list(data.shape)
    graph = f"({given}{shape} x) => ({returned}{shape} y) {{{nodes}}}"
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> peak {graph}')
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return _by_clock(lambda: session.run(None, {"x": data}))


# --- GPU, and products of either --------------------------------------------------------------


def _product(device: str, kind: str, side: int, threads: int = 1) -> Call:
    torch = _torch(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    # GeForce cards sum in float16 at twice the rate, and TensorRT may; torch 2.7 and later can.
    with contextlib.suppress(AttributeError):
        torch.backends.cuda.matmul.allow_fp16_accumulation = True
    timed = _by_events if device == "cuda" else _by_clock
    if kind == INT8:
        of_int8 = partial(torch.randint, -127, 128, (side, side), dtype=torch.int8, device=device)
        factor, other = of_int8(), of_int8()
        # cuBLASLt wants the right factor in this layout.
        columns = other.t() if device == "cuda" else other
        return timed(lambda: torch._int_mm(factor, columns))
    dtype = getattr(torch, PRECISIONS[kind].dtype)
    left, right, out = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(3))
    return timed(lambda: torch.mm(left, right, out=out))


def _gpu_copy() -> Call:
    import torch

    source, target = (torch.zeros(GPU_BYTES, dtype=torch.uint8, device="cuda") for _ in range(2))
    return _by_events(lambda: target.copy_(source))


def _cache_copies(nbytes: int) -> PeakKernel:
    """Copies from one half of ``nbytes`` to the other, as long together as ``_gpu_copy``."""
    columns = nbytes // 2 // WIDEST
    rows = max(1, GPU_BYTES // WIDEST // columns)
    prepare = partial(_copies, "cuda", rows, columns)
    name = f"copies within {nbytes / 2**20:.3g} MiB"
    return PeakKernel(name, CACHE_BYTES, 2 * rows * columns * WIDEST, prepare)


def _copies(device: str, rows: int, columns: int) -> Call:
    """One kernel that copies the same ``columns`` elements ``rows`` times.

    A single copy that fits into a cache takes no longer than its launch. Source and target are
    therefore matrices whose rows overlap: each begins one line of the cache after the row before.
    torch rejects rows that coincide (stride 0) and accepts these (``has_internal_overlap`` in
    aten/src/ATen/MemoryOverlap.cpp).
    """
    import torch

    step = LINE // WIDEST
    source, target = (
        torch.zeros(columns + (rows - 1) * step, dtype=torch.complex128, device=device).as_strided(
            (rows, columns), (step, 1)
        )
        for _ in range(2)
    )
    timed = _by_events if device == "cuda" else _by_clock
    return timed(lambda: target.copy_(source))


def _by_events(work: Callable[[], object]) -> Call:
    """A call timed by the clock of the GPU."""
    import torch

    event: Any = torch.cuda.Event
    start, end = (event(enable_timing=True) for _ in range(2))

    def call() -> float:
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    return call
