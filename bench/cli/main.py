"""``dabnet-bench`` and its command ``run``: parse, call one function, print."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from bench.cli.reports import REPORT_COMMANDS, SHOWN
from dabnet import __version__
from dabnet.command_help import Command, Group, under
from dabnet.console import (
    CONTEXT,
    FILE,
    MOST_IMAGES,
    MOST_THREADS,
    Finite,
    Percent,
    Size,
    device_option,
    refuse_typed,
    run,
    say,
    trust_option,
)
from dabnet.data.registry import DATASETS
from dabnet.errors import InputError
from dabnet.given import Given
from dabnet.given_options import described_options
from dabnet.head import MASK, MASK_AND_CONFIDENCE
from dabnet.models import NETWORKS
from export.spec import MOST_BATCH

if TYPE_CHECKING:
    from pathlib import Path

    from bench.measure.request import Request
    from bench.record import Setting
    from dabnet.data.dataset import Dataset

MOST_STREAMS, MOST_CAMERAS, MOST_ROUNDS, MOST_PICTURES = 256, 64, 100_000, 1000
MOST_SECONDS = 604_800  # a week

_IMAGES, _CALLS = click.IntRange(1, MOST_IMAGES), click.IntRange(1, MOST_STREAMS)
_ROUNDS, _PICTURES = click.IntRange(2, MOST_ROUNDS), click.IntRange(0, MOST_PICTURES)
NETWORK_NAMES = ", ".join(NETWORKS) + "."
_BATCH, _THREADS = click.IntRange(1, MOST_BATCH), click.IntRange(1, MOST_THREADS)


@click.command("run", cls=Command, context_settings=SHOWN)
@click.argument("files", nargs=-1, type=FILE, metavar="[FILE]...")
@click.option(
    "--dataset",
    type=click.Choice(list(DATASETS)),
    help="Images to score and time",
    show_default="the first checkpoint's",
)
@click.option(
    "--data-dir", type=FILE, metavar="DIR", help="Its folder; the train split calibrates INT8."
)
@click.option(
    "--size",
    "sizes",
    type=Size(),
    multiple=True,
    help="Of the images; repeatable.",
    show_default="the file's, or 512x1024",
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    help="A row (onnxruntime-int8), a backend, or all; repeatable.",
    show_default="usual rows",
)
@device_option()
@click.option("--output", type=FILE, metavar="DIR", default="runs/bench", help="Record and page.")
@click.option("--rounds", type=_ROUNDS, default=30, help="Turns of each row.")
@click.option(
    "--min-time",
    "min_time_s",
    type=Finite(0.01, MOST_SECONDS),
    default=10.0,
    help="Minimum seconds per row and scope.",
)
@click.option("--max-images", type=_IMAGES, help="Images to score.", show_default="all")
@click.option("--layers", is_flag=True, help="Also each row's time by layer.")
@click.option("--restart", is_flag=True, help="Do not continue a run that was stopped.")
@under(
    "What to measure",
    click.option(
        "--model", "networks", multiple=True, help="Also an untrained network: " + NETWORK_NAMES
    ),
    click.option("--onnx", multiple=True, type=FILE, help="Also an ONNX file of any tool."),
    click.option(
        "--batch",
        "batches",
        type=_BATCH,
        multiple=True,
        help="Frames per call; repeatable.",
        show_default="1",
    ),
    click.option("--threads", type=_THREADS, help="CPU threads of each backend."),
    click.option(
        "--scenario",
        type=click.Choice(["latency", "throughput", "camera"]),
        default="latency",
        help="One call at a time; several; or frames that arrive.",
    ),
    click.option(
        "--fps",
        type=Finite(0.1, 10_000),
        default=30.0,
        help="Of each camera; a mask is due after one period.",
    ),
    click.option(
        "--cameras", type=click.IntRange(1, MOST_CAMERAS), default=1, help="Number of cameras."
    ),
    click.option(
        "--head",
        type=click.Choice([MASK, MASK_AND_CONFIDENCE]),
        default=MASK,
        help="Outputs of a call; a FILE keeps its own.",
    ),
    click.option("--streams", type=_CALLS, help="Calls in flight.", show_default="throughput: 2"),
)
@under(
    "Images",
    click.option("--split", type=click.Choice(["val", "test"]), default="val", help="To score."),
    click.option(
        "--images", "folder", type=FILE, metavar="DIR", help="Without labels: no accuracy."
    ),
    click.option("--calibration-images", type=_IMAGES, default=48, help="Images for INT8."),
    click.option(
        "--allow-overlap", is_flag=True, help="Score on what trained or calibrated it, and mark it."
    ),
    click.option("--pictures", type=_PICTURES, default=2, help="Images to show."),
)
@described_options
@under(
    "Running",
    trust_option,
    click.option(
        "--timeout",
        "timeout_s",
        type=Finite(1, MOST_SECONDS),
        default=900.0,
        help="Seconds of silence that end a row.",
    ),
    click.option(
        "--target-width",
        type=Percent(0.1, 50),
        metavar="PERCENT",
        help="Continue until every speed interval is this narrow.",
    ),
    click.option(
        "--max-minutes",
        type=Finite(0.01, MOST_SECONDS / 60),
        default=60.0,
        help="Time limit of --target-width.",
    ),
    click.option(
        "--cache-dir",
        "cache",
        type=FILE,
        metavar="DIR",
        default=".dabnet-cache",
        help="Exported files.",
    ),
)
def run_command(restart: bool, **asked: Any) -> None:
    """Measure accuracy and speed of each FILE, in one table.

    A FILE is a checkpoint, which is exported for every backend, or an ONNX file or an engine,
    which are measured as they are. A backend that cannot run here is a row that says why. The
    same command continues a run that was stopped.
    """
    from bench.report.text import print_report
    from bench.report.write import write_report
    from bench.session import Session
    from dabnet.console import progress_bar
    from dabnet.lock import folder_held

    request = _request(asked)
    with folder_held(request.output, "dabnet-bench"):
        session = Session(request, progress_bar, restart)
        if session.continued:
            say("continuing a stopped run; --restart begins anew", err=True)
        report = session.run()
        written = write_report(report, request.output)
    print_report(report)
    say("wrote " + ", ".join(map(str, written)))


def _request(asked: dict[str, Any]) -> Request:
    _refuse_unused(asked)  # before anything slow is imported
    import torch

    from bench.backends import backends, row_names
    from bench.candidates import Asked, candidates, dataset_of
    from bench.measure.overlap import refuse_trained
    from bench.measure.request import Request, Scenario
    from bench.session import check_outputs
    from dabnet.data.images import ImageFolder, SizedImages
    from dabnet.data.registry import open_dataset
    from dabnet.device import available_device
    from dabnet.files import refuse_within, writable_directory

    device = available_device(asked["device"])
    names = row_names(asked["backends"], backends(), device.kind)
    scenario = Scenario(asked["scenario"], **_of(Scenario, asked))
    settings, given = _settings(asked), Given(**_of(Given, asked))
    size, sizes = settings[0].size, [*dict.fromkeys(setting.size for setting in settings)]
    named = {key: asked[key] for key in ("files", "onnx", "networks", "trust")}
    found = candidates(Asked(**named, given=given, sizes=sizes))
    if all(candidate.manifest for candidate in found):
        refuse_typed(["head"], "files, which have their own", "a checkpoint", "leave it out")
    labels, folder, data_dir = found[0].labels, asked["folder"], asked["data_dir"]
    untrained = any(candidate.subject.untrained for candidate in found)
    needed = folder is None or data_dir is not None or untrained
    dataset = dataset_of(found, given) if needed else ""
    # Faults of the images are told before any folder is made.
    opened: Dataset
    if folder is not None:
        refuse_typed(["split"], "--images", "a data set", "leave one of them out")
        if data_dir is not None:
            _refuse_folder_of_drawn(data_dir, dataset)
        refuse_within(asked["output"], folder)
        opened = ImageFolder(folder, labels)
    else:
        opened = open_dataset(dataset, asked["split"], data_dir, size, labels)
    images = SizedImages.first(opened, size, asked["max_images"])
    if not asked["allow_overlap"]:
        refuse_trained(found, images)
    check_outputs(asked["output"])
    cache = writable_directory(asked["cache"])
    known = {
        "candidates": tuple(
            candidate.drawn(cache, dataset) if candidate.subject.untrained else candidate
            for candidate in found
        ),
        "names": names,
        "settings": settings,
        "images": images,
        "scenario": scenario,
        "device": device,
        "threads": asked["threads"] or torch.get_num_threads(),
        "cache": cache,
        "output": asked["output"],
    }
    return Request(**_of(Request, asked) | known)


def _refuse_folder_of_drawn(data_dir: Path, dataset: str) -> None:
    """Raise where ``--images`` leaves no use for the folder of a drawn data set.

    The training images of any other data set still calibrate INT8.
    """
    if not DATASETS[dataset].folder:
        given = f"--data-dir {data_dir} with --images and a checkpoint of {dataset}"
        raise InputError(given, "no folder: its images are drawn", "leave --data-dir out")


def _refuse_unused(asked: dict[str, Any]) -> None:
    """Raise if there is nothing to measure, or an option has no effect on how it is measured."""
    if not (asked["files"] or asked["networks"] or asked["onnx"]):
        raise InputError("nothing to measure", "a FILE, --onnx FILE or --model NAME")
    name, streams = asked["scenario"], asked["streams"]
    if name != "throughput" and streams not in (None, 1):
        given = f"--streams {streams} in the scenario {name}"
        raise InputError(given, "one call at a time", "add --scenario throughput")
    if name != "camera":
        what = f"the scenario {name}"
        refuse_typed(["fps", "cameras"], what, "the scenario camera", "add --scenario camera")
    elif max(asked["batches"] or (1,)) > 1:
        given = f"--batch {max(asked['batches'])} in the scenario camera"
        raise InputError(given, "one frame per call", "leave --batch out")
    if asked["target_width"] is None:
        expected = "a width to reach within them"
        refuse_typed(["max_minutes"], "a number of rounds", expected, "add --target-width 2%")


def _of(kind: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """The options that are fields of a dataclass."""
    return {field.name: asked[field.name] for field in fields(kind) if field.name in asked}


def _default_size(asked: dict[str, Any]) -> tuple[int, int]:
    from bench.candidates import default_size

    return default_size([*asked["files"], *asked["onnx"]], asked["trust"])


def _settings(asked: dict[str, Any]) -> tuple[Setting, ...]:
    from bench.record import Setting

    streams = asked["streams"] or (2 if asked["scenario"] == "throughput" else 1)
    sizes = dict.fromkeys(asked["sizes"] or [_default_size(asked)])
    batches = dict.fromkeys(asked["batches"] or (1,))
    return tuple(Setting(size, batch, streams) for size in sizes for batch in batches)


class _RunByDefault(Group):
    """``dabnet-bench FILE`` is ``dabnet-bench run FILE``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = (*self.commands, "-h", "--help", "--version")
        return super().parse_args(ctx, args if args and args[0] in own else ["run", *args])


@click.group(
    cls=_RunByDefault,
    context_settings=CONTEXT,
    commands={command.name or "": command for command in (run_command, *REPORT_COMMANDS)},
)
@click.version_option(__version__)
def bench_command() -> None:
    """Accuracy beside speed for every backend, in one table that decides what ships.

    dabnet-bench FILE is short for dabnet-bench run FILE.
    """


def main() -> Any:
    """Entry point of ``dabnet-bench``."""
    run(bench_command)
