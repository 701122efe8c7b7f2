"""Micro-kernels of a processor: what torch and onnxruntime reach at sizes that suit them.

Which is best depends on the processor: torch's product of matrices is that of its maker's library,
onnxruntime's convolution is what its rows are made of. A call takes about a millisecond, so that
some calls of many find all cores free even where other processes use them, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.machine.peak_kernel import BYTES, PeakKernel, by_clock

ELEMENTS = 64 * 2**20  # float32: 256 MiB, more than the caches of most servers
PIECES = 4  # each call moves the next one, when the caches have long lost it
CHANNELS, IMAGE, DEPTH = 64, 64, 2

# Multiply-adds of a product that keep one thread busy for about a millisecond.
FP32_WORK, INT8_WORK = 2**26, 2**28


def cpu_kernels(threads: int) -> tuple[PeakKernel, ...]:
    """Return the kernels; each uses so many threads."""
    batch = max(1, threads // 2)  # enough rows for every thread
    convolutions = batch * DEPTH * 9 * (CHANNELS * IMAGE) ** 2
    side, side8 = _side(threads * FP32_WORK), _side(threads * INT8_WORK)
    # A processor reads what a plain copy is about to overwrite, and that is traffic which does no
    # work: changing an array in place has none, and gives more.
    moved = 2 * 4 * ELEMENTS // PIECES
    return (
        PeakKernel("torch in place", BYTES, moved, lambda: _in_place(threads)),
        PeakKernel("torch copy", BYTES, moved, lambda: _copy(threads)),
        PeakKernel("torch mm", "fp32", side**3, lambda: _torch_product(threads, side)),
        PeakKernel("onnxruntime MatMul", "fp32", side**3, lambda: _ort_product(threads, side)),
        PeakKernel("onnxruntime Conv", "fp32", convolutions, lambda: _ort_conv(threads, batch)),
        PeakKernel("torch int_mm", "int8", side8**3, lambda: _torch_int8(threads, side8)),
        PeakKernel(
            "onnxruntime MatMulInteger", "int8", side8**3, lambda: _ort_int8(threads, side8)
        ),
    )


def _side(multiply_adds: int) -> int:
    """Side of square matrices whose product has so many or more; a power of two from 256 on."""
    side = 256
    while side**3 < multiply_adds:
        side *= 2
    return side


def _torch(threads: int) -> Any:
    import torch

    torch.set_num_threads(threads)
    return torch


def _in_place(threads: int) -> Callable[[], float]:
    pieces = itertools.cycle(_torch(threads).zeros(ELEMENTS).chunk(PIECES))
    return by_clock(lambda: next(pieces).add_(1))


def _copy(threads: int) -> Callable[[], float]:
    torch = _torch(threads)
    sources = itertools.cycle(torch.ones(ELEMENTS).chunk(PIECES))
    targets = itertools.cycle(torch.zeros(ELEMENTS).chunk(PIECES))
    return by_clock(lambda: next(targets).copy_(next(sources)))


def _torch_product(threads: int, side: int) -> Callable[[], float]:
    torch = _torch(threads)
    left, right, out = (torch.rand(side, side) for _ in range(3))
    return by_clock(lambda: torch.mm(left, right, out=out))


def _torch_int8(threads: int, side: int) -> Callable[[], float]:
    torch = _torch(threads)
    left, right = (torch.randint(-127, 128, (side, side), dtype=torch.int8) for _ in range(2))
    return by_clock(lambda: torch._int_mm(left, right))


def _ort_product(threads: int, side: int) -> Callable[[], float]:
    matrix = np.random.default_rng(0).random((side, side), np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return _ort_call(nodes, matrix, matrix, "y", TensorProto.FLOAT, threads)


def _ort_int8(threads: int, side: int) -> Callable[[], float]:
    random = np.random.default_rng(0)
    data = random.integers(0, 128, (side, side), np.uint8)
    weights = random.integers(-127, 128, (side, side), np.int8)
    nodes = [helper.make_node("MatMulInteger", ["x", "w"], ["y"])]
    return _ort_call(nodes, data, weights, "y", TensorProto.INT32, threads)


def _ort_conv(threads: int, batch: int) -> Callable[[], float]:
    random = np.random.default_rng(0)
    image = random.random((batch, CHANNELS, IMAGE, IMAGE), np.float32)
    weights = random.random((CHANNELS, CHANNELS, 3, 3), np.float32) / (9 * CHANNELS)
    names = ["x", *(f"y{number}" for number in range(DEPTH))]
    nodes = [
        helper.make_node("Conv", [source, "w"], [target], pads=[1, 1, 1, 1])
        for source, target in itertools.pairwise(names)
    ]
    return _ort_call(nodes, image, weights, names[-1], TensorProto.FLOAT, threads)


def _ort_call(
    nodes: list[onnx.NodeProto],
    data: np.ndarray[Any, Any],
    weights: np.ndarray[Any, Any],
    output: str,
    output_type: int,
    threads: int,
) -> Callable[[], float]:
    """A session over ``x`` and the constant ``w``."""
    import onnxruntime

    kind = helper.np_dtype_to_tensor_dtype(data.dtype)
    graph = helper.make_graph(
        nodes,
        "peak",
        [helper.make_tensor_value_info("x", kind, data.shape)],
        [helper.make_tensor_value_info(output, output_type, None)],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return by_clock(lambda: session.run(None, {"x": data}))
