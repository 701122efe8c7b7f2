"""Micro-kernels of a GPU: products of large matrices and a copy, by torch.

FP32 is without TF32, as in every row. A product that torch does not have on a card (int8 on Pascal)
raises, and is not measured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from bench.machine.peak_kernel import BYTES, PeakKernel

ELEMENTS = 256 * 2**20  # of one byte; far more than the second-level cache of any card
SIDES = (4096, 8192)


def gpu_kernels() -> tuple[PeakKernel, ...]:
    """Return the kernels."""
    products = [
        PeakKernel(f"{kind} product of {side}", kind, side**3, _product_of(kind, side))
        for kind in ("fp32", "fp16", "int8")
        for side in SIDES
    ]
    return (PeakKernel("copy", BYTES, 2 * ELEMENTS, _copy), *products)


def _product_of(kind: str, side: int) -> Callable[[], Callable[[], float]]:
    return lambda: _product(kind, side)


def _product(kind: str, side: int) -> Callable[[], float]:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    # GeForce cards sum in float16 at twice the rate, and TensorRT may; torch 2.7 and later can.
    with contextlib.suppress(AttributeError):
        torch.backends.cuda.matmul.allow_fp16_accumulation = True
    if kind == "int8":
        left, right = (
            torch.randint(-127, 128, (side, side), dtype=torch.int8, device="cuda")
            for _ in range(2)
        )
        columns = right.t()  # as cuBLASLt wants the right factor to lie
        return _by_events(torch, lambda: torch._int_mm(left, columns))
    dtype = torch.float16 if kind == "fp16" else torch.float32
    left, right, out = (torch.rand(side, side, device="cuda", dtype=dtype) for _ in range(3))
    return _by_events(torch, lambda: torch.mm(left, right, out=out))


def _copy() -> Callable[[], float]:
    import torch

    source, target = (torch.zeros(ELEMENTS, dtype=torch.uint8, device="cuda") for _ in range(2))
    return _by_events(torch, lambda: target.copy_(source))


def _by_events(torch: Any, work: Callable[[], object]) -> Callable[[], float]:
    """A call that returns its seconds, by the clock of the GPU."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def call() -> float:
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    return call
