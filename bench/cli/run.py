"""``dabnet-bench run``: measure a checkpoint on every backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dabnet.console import Size, options
from dabnet.data.registry import DATASET_NAMES

if TYPE_CHECKING:
    from bench.measure.request import Request
    from bench.record import Report, Setting

_what = options(
    click.argument("checkpoint", type=click.Path(path_type=Path)),
    click.option(
        "--backend",
        "backends",
        multiple=True,
        help="What to measure, repeatable: a row (onnxruntime-int8), a backend (pytorch) or all."
        "  [default: each backend's usual rows]",
    ),
    click.option("--size", "sizes", type=Size(), multiple=True, help="[default: 512x1024]"),
    click.option(
        "--batch",
        "batches",
        type=click.IntRange(1),
        multiple=True,
        help="Frames a call; repeat --size and --batch for a sweep.  [default: 1]",
    ),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto"),
    click.option("--threads", type=click.IntRange(1), help="CPU threads of each backend."),
    click.option("--calibration-images", type=click.IntRange(1), default=48, show_default=True),
)

_images = options(
    click.option(
        "--dataset",
        type=click.Choice(DATASET_NAMES),
        help="Images to score and time on.  [default: the checkpoint's]",
    ),
    click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the data set."),
    click.option("--split", type=click.Choice(["val", "test"]), default="val", show_default=True),
    click.option(
        "--images",
        "folder",
        type=click.Path(path_type=Path),
        help="A folder of images without labels instead: speed and agreement only.",
    ),
    click.option("--max-images", type=click.IntRange(1), help="Images to score.  [default: all]"),
    click.option(
        "--allow-overlap",
        is_flag=True,
        help="Score INT8 on images that calibrated it, and mark the row.  [default: an error]",
    ),
)

_timing = options(
    click.option(
        "--scenario",
        type=click.Choice(["latency", "throughput"]),
        default="latency",
        show_default=True,
        help="One call at a time, or several in flight.",
    ),
    click.option("--streams", type=click.IntRange(1), help="Calls in flight.  [throughput: 2]"),
    click.option("--rounds", type=int, default=30, show_default=True, help="Turns of each row."),
    click.option(
        "--min-time",
        type=click.FloatRange(0.01),
        default=10.0,
        show_default=True,
        help="Least seconds of all turns of a row, in each scope.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(1),
        default=900.0,
        show_default=True,
        help="Seconds without a sign of life after which a row is given up.",
    ),
    click.option("--layers", is_flag=True, help="Also each row's time by layer."),
)

_results = options(
    click.option("--pictures", type=click.IntRange(0), default=2, show_default=True),
    click.option(
        "--cache-dir", type=click.Path(path_type=Path), default=".dabnet-cache", show_default=True
    ),
    click.option(
        "--output", type=click.Path(path_type=Path), default="runs/bench", show_default=True
    ),
    click.option("--restart", is_flag=True, help="Do not go on with a run that was stopped."),
)


@click.command("run")
@_what
@_images
@_timing
@_results
def run_command(restart: bool, **asked: Any) -> None:
    """Measure accuracy and speed of CHECKPOINT on every backend, in one table.

    What is missing is exported into the cache folder. A backend that cannot run here is a row
    that says why. The record and its reports are written as bench.json, bench.csv, bench.md and
    bench.html. A run that is stopped goes on where it was with the same command.
    """
    from bench.report.write import write_report
    from bench.session import Session
    from dabnet.console import progress_bar

    session = Session(_request(**asked), progress_bar, restart)
    if session.continued:
        click.echo("going on with a stopped run; --restart begins anew", err=True)
    report = session.run()
    _print_report(report, write_report(report, asked["output"]))


def _request(**asked: Any) -> Request:
    import torch

    from bench.backends.base import backends, row_names
    from bench.measure.request import Request, Scenario
    from dabnet.checkpoint import load_checkpoint
    from dabnet.data.images import ImageFolder, SizedImages
    from dabnet.data.labels import label_set
    from dabnet.data.registry import open_dataset
    from dabnet.files import writable_directory
    from dabnet.torch_device import torch_device

    device = torch_device(asked["device"]).type
    names = row_names(asked["backends"], backends(), device)
    scenario = Scenario(
        asked["scenario"],
        rounds=asked["rounds"],
        min_time_s=asked["min_time"],
        timeout_s=asked["timeout"],
    )
    settings = _settings(asked["scenario"], asked["sizes"], asked["batches"], asked["streams"])
    dataset = load_checkpoint(asked["checkpoint"], asked["dataset"]).dataset
    size = settings[0].size
    # What is wrong with the images is told before any folder is made.
    opened = (
        ImageFolder(asked["folder"], label_set(dataset))
        if asked["folder"] is not None
        else open_dataset(dataset, asked["split"], asked["data_dir"], size)
    )
    return Request(
        checkpoint=asked["checkpoint"],
        dataset=dataset,
        names=names,
        settings=settings,
        images=SizedImages.first(opened, size, asked["max_images"]),
        data_dir=asked["data_dir"],
        scenario=scenario,
        calibration_images=asked["calibration_images"],
        device=device,
        threads=asked["threads"] or torch.get_num_threads(),
        cache=writable_directory(asked["cache_dir"]),
        output=writable_directory(asked["output"]),
        allow_overlap=asked["allow_overlap"],
        layers=asked["layers"],
        pictures=asked["pictures"],
    )


def _settings(
    scenario: str,
    sizes: tuple[tuple[int, int], ...],
    batches: tuple[int, ...],
    streams: int | None,
) -> tuple[Setting, ...]:
    """Each size with each batch."""
    from bench.record import Setting
    from dabnet.errors import InputError
    from dabnet.models import check_size

    if scenario == "latency" and streams not in (None, 1):
        raise InputError(
            f"--streams {streams} in the scenario latency",
            "one call at a time",
            "add --scenario throughput",
        )
    streams = streams or (2 if scenario == "throughput" else 1)
    for size in sizes:
        check_size(*size)
    return tuple(
        Setting(size, batch, streams)
        for size in dict.fromkeys(sizes or ((512, 1024),))
        for batch in dict.fromkeys(batches or (1,))
    )


def _print_report(report: Report, written: list[Path]) -> None:
    from bench.report.text import print_report

    print_report(report)
    click.echo("wrote " + ", ".join(str(path) for path in written))
