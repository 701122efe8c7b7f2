"""One row of studies/calibration_speed.py, in a process of its own, so with its own memory.

    python studies/calibration_rows.py ROW GRAPH IMAGES COUNT RESULT

IMAGES holds uint8 images one after another, as large as GRAPH's input; RESULT becomes a JSON
``Measurement``.
"""

from __future__ import annotations

import importlib
import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

Image = NDArray[np.uint8]

OURS = "ours"
PEERS = ("MinMax", "Percentile", "Entropy")
# How onnxruntime's calibrators are fed: all images and then one collection, or one a collection.
TOGETHER, ONE_BY_ONE = "together", "one by one"
ROWS = (OURS, *(f"onnxruntime {peer}, {way}" for peer in PEERS for way in (TOGETHER, ONE_BY_ONE)))


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one row took.

    Attributes:
        collect_seconds: from the graph's file and the images' to all statistics.
        cpu_seconds: of all cores, in that time.
        ranges_seconds: from the statistics to the ranges; ours are those of four methods.
        peak_bytes: most resident memory of the process, its libraries included.
        tensors: names of the tensors, sorted.
    """

    collect_seconds: float
    cpu_seconds: float
    ranges_seconds: float
    peak_bytes: int
    tensors: list[str]


def run_ours(graph: Path, images: Iterator[Image]) -> Iterator[list[str]]:
    """Collect, then compute the ranges; yields the tensors after each."""
    from calibration.collect import collect
    from calibration.ranges import METHODS, symmetric_range

    model = onnx.load(graph)
    named = ((str(number), image) for number, image in enumerate(images))
    histograms = collect(model, named, float_tensors(model))
    yield list(histograms)
    for histogram in histograms.values():
        for method in METHODS:
            symmetric_range(histogram, method)
    yield list(histograms)


def run_peer(method: str, way: str, graph: Path, images: Iterator[Image]) -> Iterator[list[str]]:
    """As ``run_ours``, with a calibrator of onnxruntime and its defaults."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    model = onnx.load(graph)
    name = model.graph.input[0].name
    feeds = ({name: image[None]} for image in images)
    with TemporaryDirectory() as folder:
        calibrator = create_calibrator(
            graph,
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod[method],
        )
        if way == TOGETHER:
            calibrator.collect_data(_Reader(feeds))
        else:
            for feed in feeds:
                calibrator.collect_data(_Reader(iter([feed])))
        yield float_tensors(model)
        yield [name for name, _ in calibrator.compute_data().items()]


class _Reader:
    """Has the method of ``onnxruntime.quantization.CalibrationDataReader``."""

    def __init__(self, feeds: Iterator[dict[str, Image]]) -> None:
        self._feeds = feeds

    def get_next(self) -> dict[str, Image] | None:
        return next(self._feeds, None)


def float_tensors(model: onnx.ModelProto) -> list[str]:
    """Every float32 tensor that a node computes: what onnxruntime takes by default."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    known = {i.name: i.type.tensor_type for i in (*graph.value_info, *graph.output)}
    names = [name for node in graph.node for name in node.output]
    return [n for n in names if n in known and known[n].elem_type == onnx.TensorProto.FLOAT]


def read_images(path: Path, shape: Sequence[int], count: int) -> Iterator[Image]:
    """Yield the first ``count`` images, uint8 (H, W, 3), one at a time."""
    with path.open("rb") as stream:
        for _ in range(count):
            yield np.fromfile(stream, dtype=np.uint8, count=math.prod(shape)).reshape(shape)


def peak_bytes() -> int:
    """Most memory that this process held, in bytes.

    ``ru_maxrss`` of a process starts at what its parent held when it was forked; Linux knows
    better (proc_pid_status(5)).
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    scale = 1 if sys.platform == "darwin" else 1024
    return scale * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(row: str, graph: Path, images: Path, count: int) -> Measurement:
    """Run one of ``ROWS``."""
    shape = [d.dim_value for d in onnx.load(graph).graph.input[0].type.tensor_type.shape.dim[1:]]
    stream = read_images(images, shape, count)
    run: Callable[..., Iterator[list[str]]] = run_ours
    arguments: list[Any] = [graph, stream]
    if row != OURS:
        method, way = row.removeprefix("onnxruntime ").split(", ")
        run, arguments = run_peer, [method, way, *arguments]
    _import_all()
    start, start_cpu = time.perf_counter(), time.process_time()
    phases = run(*arguments)
    next(phases)
    collected, cpu_seconds = time.perf_counter(), time.process_time() - start_cpu
    tensors = sorted(next(phases))
    done = time.perf_counter()
    return Measurement(collected - start, cpu_seconds, done - collected, peak_bytes(), tensors)


def _import_all() -> None:
    """Imports are no part of what is timed."""
    for name in ("onnxruntime.quantization.calibrate", "calibration.collect", "calibration.ranges"):
        importlib.import_module(name)


if __name__ == "__main__":
    row_, graph_, images_, count_, result_ = sys.argv[1:]
    with redirect_stdout(sys.stderr):  # onnxruntime's calibrators print as they go
        measured = measure(row_, Path(graph_), Path(images_), int(count_))
    Path(result_).write_text(json.dumps(asdict(measured)), encoding="utf-8")
