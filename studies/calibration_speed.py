"""Time and memory of calibration, beside onnxruntime's own calibrators.

    python studies/calibration_speed.py --images 8,32,128,500

The same graph, images and tensors (every float32 one), each row in a process of its own:

- ours: statistics of which all four methods' ranges are computed;
- onnxruntime MinMax, Percentile (2,048 bins), Entropy (128 bins): its calibrators with their
  defaults, fed all images before they collect (together), or one image a collection (one by one).

Seconds are from the files of graph and images to the statistics; those to the ranges stand apart.
Memory is the most the process held. A process over the limit is stopped, and its row says so.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from calibration_rows import OURS, ROWS, Measurement
from study import input_options, keep, markdown

from bench.machine.environment import describe_environment
from bench.machine.telemetry import DISTURBED_CORES, CpuWatch
from dabnet.checkpoint import load_checkpoint
from dabnet.console import CONTEXT, progress_bar, run
from dabnet.data.images import range_source
from dabnet.errors import InputError
from export.onnx_export import export_onnx
from export.spec import ExportSpec

WATCH_SECONDS = 0.05
GB = 1e9


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table.

    Attributes:
        name: one of ``ROWS``.
        images: how many it was given.
        measured: None where it did not finish.
        reason: why not.
    """

    name: str
    images: int
    measured: Measurement | None
    reason: str = ""


class Counts(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """Numbers above 0 with commas between them."""

    name = "N,N,…"

    def convert(self, value: object, param: object, ctx: object) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            counts = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            counts = ()
        if not counts or min(counts) < 1:
            self.fail(f"{value!r} is not a list of numbers above 0, such as 8,32")
        return counts


def run_row(name: str, count: int, graph: Path, images: Path, limit_bytes: float) -> Row:
    """Run one row in its own process, and stop it if it holds more than the limit."""
    result = graph.with_name("result.json")
    result.unlink(missing_ok=True)
    script = Path(__file__).with_name("calibration_rows.py")
    words = [sys.executable, str(script), name, str(graph), str(images), str(count), str(result)]
    with graph.with_name("stderr.txt").open("w+", encoding="utf-8") as errors:
        child = subprocess.Popen(words, stderr=errors)
        try:
            while child.poll() is None:
                time.sleep(WATCH_SECONDS)
                if _resident_bytes(child.pid) > limit_bytes:
                    return Row(name, count, None, f"stopped: over {limit_bytes / GB:g} GB")
        finally:
            child.kill()
            child.wait()
        errors.seek(0)
        last = (errors.read().strip().splitlines() or ["no message"])[-1]
    if child.returncode != 0 or not result.exists():
        return Row(name, count, None, f"failed ({child.returncode}): {last}")
    return Row(name, count, Measurement(**json.loads(result.read_text(encoding="utf-8"))))


def _resident_bytes(process: int) -> int:
    """What a process holds now; 0 where it is gone, or where nobody knows."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    resident = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return 1024 * int(resident[0].split()[1]) if resident else 0


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown; a time is compared with ours on as many images."""
    headings = ("calibrator", "images", "seconds", "s per image", "CPU s per image")
    headings += ("s to ranges", "peak GB", "time to ours")
    cells = []
    ours = {row.images: row.measured for row in rows if row.name == OURS}
    for row in rows:
        found, reference = row.measured, ours.get(row.images)
        if found is None:
            cells.append([row.name, str(row.images), row.reason])
            continue
        seconds = found.collect_seconds
        ratio = f"{seconds / reference.collect_seconds:.2f}" if reference else ""
        numbers = [f"{seconds:.1f}", f"{seconds / row.images:.2f}"]
        numbers += [f"{found.cpu_seconds / row.images:.2f}", f"{found.ranges_seconds:.1f}"]
        numbers += [f"{found.peak_bytes / GB:.2f}", ratio]
        cells.append([row.name, str(row.images), *numbers])
    return markdown(headings, cells)


def require_same_tensors(rows: list[Row]) -> int:
    """Return how many tensors each row had ranges of."""
    sets = {tuple(row.measured.tensors) for row in rows if row.measured}
    if len(sets) > 1:
        raise AssertionError(f"rows of different tensors: {[len(names) for names in sets]}")
    return len(sets.pop()) if sets else 0


def write_inputs(
    checkpoint: Path, data_dir: Path | None, size: tuple[int, int], count: int, folder: Path
) -> tuple[Path, Path, str]:
    """Write the graph and ``count`` training images, again and again where there are fewer.

    Returns:
        Both files, and what the images are.
    """
    graph, images = folder / "graph.onnx", folder / "images.bin"
    spec = ExportSpec(size, check_images=1)
    export_onnx(checkpoint, graph, spec, data_dir=data_dir, progress=progress_bar)
    source = range_source(load_checkpoint(checkpoint).dataset, data_dir, count, size)
    if len(source) == 0:
        raise InputError("a data set without training images", "at least one")
    with images.open("wb") as stream, progress_bar("writing images", count) as step:
        for item in itertools.islice(itertools.cycle(source), count):
            stream.write(item.image.tobytes())
            step()
    return graph, images, source.description


@click.command(context_settings=CONTEXT, help=__doc__.split("\n\n", 1)[0])
@input_options
@click.option("--images", "counts", type=Counts(), default="8,32", show_default=True)
@click.option(
    "--row", "names", type=click.Choice(ROWS), multiple=True, default=ROWS, help="[default: all]"
)
@click.option("--memory-limit-gb", type=click.FloatRange(0, min_open=True), default=16.0)
def benchmark(
    checkpoint: Path,
    data_dir: Path | None,
    size: tuple[int, int],
    counts: tuple[int, ...],
    names: tuple[str, ...],
    memory_limit_gb: float,
    record: Path | None,
) -> None:
    rows = []
    with TemporaryDirectory() as folder:
        made = write_inputs(checkpoint, data_dir, size, max(counts), Path(folder))
        graph, images, description = made
        watch = CpuWatch()
        with progress_bar("calibrating", len(counts) * len(names), unit="rows") as step:
            for count, name in itertools.product(counts, names):
                rows.append(run_row(name, count, graph, images, memory_limit_gb * GB))
                step()
        foreign = watch.foreign_cores()
    tensors = require_same_tensors(rows)
    facts = describe_environment()
    click.echo(table(rows))
    click.echo(
        f"\n{checkpoint.name}, {size[0]}x{size[1]}, {tensors} tensors, {description} in turn;"
        f" {facts['processor']}, ONNX Runtime {facts['onnxruntime']}"
    )
    if foreign is not None and foreign > DISTURBED_CORES:
        click.echo(f"DISTURBED: other processes used {foreign:.2f} cores; repeat it when quiet")
    keep(record, size, {"foreign_cores": foreign, "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    run(benchmark)
