"""Time and memory of calibration, beside onnxruntime's own calibrators.

    python studies/calibration_speed.py --images 8,32,128,500

The same graph, images and tensors (every float32 one), each row in a process of its own:

- ours: statistics from which the ranges of all four methods are computed;
- onnxruntime MinMax, Percentile (2,048 bins), Entropy (128 bins): its calibrators with their
  defaults; they get all images before they collect (together), or collect for each (one by one).

Seconds are from the files of graph and images to the statistics; those to the ranges are separate.
Memory is the peak of the process. A process over the limit is stopped, and its row says so.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from itertools import cycle, islice, product
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import study
from int8_peers import Reader
from numpy.typing import NDArray

from bench.isolation import Isolated, ProcessFailed
from bench.machine.telemetry import CpuWatch
from bench.measure.timer import peak_bytes
from dabnet.console import progress_bar, run
from dabnet.data.images import images_or_scenes

Image = NDArray[np.uint8]

WATCH_SECONDS = 0.05
GB = 1e9

OURS = "ours"
PEERS = ("MinMax", "Percentile", "Entropy")
# The calibrators of onnxruntime get all images and collect once, or collect for each image.
TOGETHER, ONE_BY_ONE = "together", "one by one"
ROWS = (OURS, *(f"onnxruntime {peer}, {way}" for peer in PEERS for way in (TOGETHER, ONE_BY_ONE)))


@dataclass(frozen=True, slots=True)
class Measurement:
    """Cost of one row.

    Attributes:
        collect_seconds: from the files of graph and images to all statistics.
        cpu_seconds: of all cores, in that time.
        ranges_seconds: from the statistics to the ranges; ours are those of four methods.
        peak_bytes: peak resident memory of the process, its libraries included.
        tensors: names of the tensors, sorted.
    """

    collect_seconds: float
    cpu_seconds: float
    ranges_seconds: float
    peak_bytes: int
    tensors: list[str]


@dataclass(frozen=True, slots=True)
class Row:
    """One of ``ROWS`` on a number of images; ``measured`` is None if it did not finish."""

    name: str
    images: int
    measured: Measurement | None
    reason: str = ""


class Calibration:
    """The service of a row, one of ``ROWS``; it has no state."""

    def measure(self, row: str, graph: Path, images: Path, count: int) -> Measurement:
        """Calibrate on the npy files of a folder, taken in turn until ``count`` were read."""
        stream: Iterator[Image] = map(np.load, islice(cycle(sorted(images.iterdir())), count))
        phases = self._ours(graph, stream) if row == OURS else self._peer(row, graph, stream)
        next(phases)
        start, start_cpu = time.perf_counter(), time.process_time()
        next(phases)
        collected, cpu_seconds = time.perf_counter(), time.process_time() - start_cpu
        tensors = sorted(next(phases))
        seconds = collected - start, cpu_seconds, time.perf_counter() - collected
        return Measurement(*seconds, peak_bytes(), tensors)

    def _ours(self, graph: Path, images: Iterator[Image]) -> Iterator[Iterable[str]]:
        """Import, collect, compute the ranges: three steps, of which the last yields the names."""
        import onnx_ir as ir

        from calibration.collect import collect
        from calibration.ranges import METHODS, symmetric_range
        from dabnet.graph.facts import inferred

        yield ()
        model = ir.load(graph)
        values = [value for node in inferred(model).graph for value in node.outputs]
        floats = [str(value.name) for value in values if value.dtype == ir.DataType.FLOAT]
        named = ((str(number), image) for number, image in enumerate(images))
        histograms = collect(model, named, floats)
        yield ()
        for histogram in histograms.values():
            for method in METHODS:
                symmetric_range(histogram, method)
        yield histograms

    def _peer(self, row: str, graph: Path, images: Iterator[Image]) -> Iterator[Iterable[str]]:
        """As ``_ours``, with a calibrator of onnxruntime and its defaults."""
        import onnx
        from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

        yield ()
        method, way = row.removeprefix("onnxruntime ").split(", ")
        name = onnx.load(graph).graph.input[0].name
        feeds = ({name: image[None]} for image in images)
        with TemporaryDirectory() as folder:
            calibrator = create_calibrator(
                graph,
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=CalibrationMethod[method],
            )
            for some in [feeds] if way == TOGETHER else (iter([feed]) for feed in feeds):
                calibrator.collect_data(Reader(some))
            yield ()
            yield [name for name, _ in calibrator.compute_data().items()]


def run_row(name: str, count: int, graph: Path, images: Path, limit_bytes: float) -> Row:
    """Run one row in its own process, and stop it if it holds more than the limit."""
    reason = ""
    try:
        with (
            ThreadPoolExecutor(1) as pool,
            Isolated(name, Calibration, (), graph.with_name("row.log")) as row,
        ):
            answer = pool.submit(row.call, "measure", name, graph, images, count)
            while not wait([answer], WATCH_SECONDS).done:
                if not reason and resident_bytes(row.pid) > limit_bytes:
                    reason = f"stopped: over {limit_bytes / GB:g} GB"
                    os.kill(row.pid, signal.SIGKILL)
            return Row(name, count, answer.result())
    except ProcessFailed as error:
        return Row(name, count, None, reason or str(error))


def resident_bytes(process: int) -> int:
    """Present memory of a process; 0 if it is gone, or not known (proc_pid_statm(5))."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown; a time is compared with ours on as many images."""
    headings = ["calibrator", "images", "seconds", "s per image", "CPU s per image"]
    headings += ["s to ranges", "peak GB", "time to ours"]
    cells = []
    ours = {row.images: row.measured for row in rows if row.name == OURS}
    for row in rows:
        found, reference = row.measured, ours.get(row.images)
        numbers = [row.reason]
        if found is not None:
            seconds = found.collect_seconds
            numbers = [f"{seconds:.1f}", f"{seconds / row.images:.2f}"]
            numbers += [f"{found.cpu_seconds / row.images:.2f}", f"{found.ranges_seconds:.1f}"]
            numbers += [f"{found.peak_bytes / GB:.2f}"]
            numbers += [f"{seconds / reference.collect_seconds:.2f}" if reference else ""]
        cells.append([row.name, str(row.images), *numbers])
    return study.markdown(headings, cells)


def require_same_tensors(rows: list[Row]) -> int:
    """Return how many tensors each row had ranges of."""
    sets = {tuple(row.measured.tensors) for row in rows if row.measured}
    if len(sets) > 1:
        raise AssertionError(f"rows of different tensors: {[len(names) for names in sets]}")
    return len(sets.pop()) if sets else 0


def write_images(inputs: study.Inputs, count: int, folder: Path) -> str:
    """Write at most ``count`` training images as npy files, and return what they are."""
    source = images_or_scenes(inputs.dataset, "train", inputs.data_dir, count, inputs.size)
    folder.mkdir()
    with progress_bar("writing images", len(source)) as step:
        for number, item in enumerate(source):
            np.save(folder / f"{number:06d}.npy", item.image)
            step()
    return source.description


def _counts(_: object, __: object, text: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(part) for part in text.split(","))
    except ValueError:
        counts = (0,)
    if min(counts) < 1:
        raise click.BadParameter(f"{text!r} is not a list of numbers above 0, such as 8,32")
    return counts


@study.command
@click.option(
    "--images", "counts", metavar="N,N,…", callback=_counts, default="8,32", show_default=True
)
@click.option(
    "--row", "names", type=click.Choice(ROWS), multiple=True, default=ROWS, help="[default: all]"
)
@click.option("--memory-limit-gb", type=click.FloatRange(0, min_open=True), default=16.0)
def main(
    inputs: study.Inputs, counts: tuple[int, ...], names: tuple[str, ...], memory_limit_gb: float
) -> None:
    rows = []
    with TemporaryDirectory() as folder:
        graph = inputs.export(Path(folder) / "graph.onnx")
        images = Path(folder) / "images"
        description = write_images(inputs, max(counts), images)
        watch = CpuWatch()
        with progress_bar("calibrating", len(counts) * len(names), unit="rows") as step:
            for count, name in product(counts, names):
                rows.append(run_row(name, count, graph, images, memory_limit_gb * GB))
                step()
        foreign = watch.foreign_cores()
    facts = f"{require_same_tensors(rows)} tensors, {description} in turn"
    click.echo(table(rows))
    content = {"size": inputs.size, "foreign_cores": foreign, "rows": [asdict(r) for r in rows]}
    study.conclude(f"{inputs.subject}, {facts}", inputs.record, content, cores=foreign)


if __name__ == "__main__":
    run(main)
