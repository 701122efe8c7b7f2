"""``dabnet-bench report``, ``compare`` and ``recommend``: what is made from a record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dabnet.console import CONTEXT, Size, options

FOUND_WANTING = 1
"""Exit code of a regression, or where nothing meets the bounds."""
DEFAULT_RECORD = Path("runs/bench/bench.json")

_PATH = click.Path(path_type=Path)


@click.command("report", context_settings=CONTEXT)
@click.argument("record", metavar="FILE.json", type=_PATH)
@click.option("--html", is_flag=True, help="Write the page bench.html beside FILE.json.")
@click.option(
    "--output",
    type=_PATH,
    metavar="DIR",
    help="Write bench.json, bench.csv, bench.md and bench.html into DIR.",
)
def report_command(record: Path, html: bool, output: Path | None) -> None:
    """Print the tables of a record again, and write its other forms."""
    from bench.record.file import read_record
    from bench.report.files import write_page, write_report
    from bench.report.terminal import print_report

    report = read_record(record)
    written = []
    if output is not None:
        written = write_report(report, output, pictures=record.parent)
    elif html:
        written = [write_page(report, record.parent)]
    print_report(report)
    if written:
        click.echo("wrote " + ", ".join(str(path) for path in written))


_limits = options(
    click.option(
        "--max-slowdown",
        type=click.FloatRange(0),
        default=3.0,
        show_default=True,
        metavar="PERCENT",
        help="By how much longer a call may take.",
    ),
    click.option(
        "--max-miou-drop",
        type=click.FloatRange(0, 100),
        default=0.3,
        show_default=True,
        metavar="POINTS",
        help="By how many points of mIoU a row may be less accurate.",
    ),
    click.option(
        "--max-memory-growth",
        type=click.FloatRange(0),
        metavar="PERCENT",
        help="By how much a row's peak memory may grow.  [default: not judged]",
    ),
)


@click.command("compare", context_settings=CONTEXT)
@click.argument("old", metavar="OLD.json", type=_PATH)
@click.argument("new", metavar="NEW.json", type=_PATH)
@_limits
@click.option("--json", "output", type=_PATH, metavar="FILE", help="Write the comparison as JSON.")
def compare_command(
    old: Path,
    new: Path,
    max_slowdown: float,
    max_miou_drop: float,
    max_memory_growth: float | None,
    output: Path | None,
) -> int:
    """Say what became slower, less accurate or larger from OLD to NEW.

    Exit code 1 where something did by more than its threshold, with its whole interval, or where
    a row is gone.
    """
    import json

    from bench.judgement.compare import REGRESSION, Limits, compare
    from bench.judgement.compare_report import print_comparison
    from bench.judgement.compare_report import record as comparison_record
    from bench.record.file import read_record
    from dabnet.files import writable_target, write_text
    from dabnet.tables import terminal

    if output is not None:
        for source in (old, new):
            writable_target(output, source)
    growth = None if max_memory_growth is None else max_memory_growth / 100
    limits = Limits(max_slowdown / 100, max_miou_drop / 100, growth)
    found = compare(read_record(old), read_record(new), limits)
    if output is not None:
        values = comparison_record(found, limits, old, new)
        text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(output, text + "\n")
    print_comparison(terminal(), found, limits)
    return FOUND_WANTING if found.count(REGRESSION) else 0


def _share(ctx: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 <= value <= 1:
        meant = f"; write {value / 100:g} for {value:g} %" if 1 < value <= 100 else ""
        raise click.BadParameter(f"{value:g} is no share; expected 0 to 1{meant}", ctx, option)
    return value


_bounds = options(
    click.option(
        "--min-miou",
        type=float,
        callback=_share,
        metavar="SHARE",
        help="Least mean IoU, 0 to 1.",
    ),
    click.option(
        "--max-latency-ms",
        type=click.FloatRange(0, min_open=True),
        metavar="MS",
        help="Most time of a call.",
    ),
    click.option(
        "--percentile",
        type=click.Choice(["p50", "p95", "p99"]),
        default="p95",
        show_default=True,
        help="Of the calls' times, for --max-latency-ms.",
    ),
    click.option(
        "--scope",
        type=click.Choice(["host", "device"]),
        default="host",
        show_default=True,
        help="Whose times.",
    ),
    click.option(
        "--max-memory-mb",
        type=click.FloatRange(0, min_open=True),
        metavar="MB",
        help="Most memory: of the GPU where that was recorded, else of the host.",
    ),
)


@click.command("recommend", context_settings=CONTEXT)
@click.argument("record", metavar="[FILE.json]", type=_PATH, default=DEFAULT_RECORD, required=False)
@_bounds
@click.option("--size", type=Size(), help="Of the images.  [default: the record's only one]")
@click.option("--batch", type=click.IntRange(1), help="Frames a call.  [default: the smallest]")
def recommend_command(
    record: Path, size: tuple[int, int] | None, batch: int | None, **bounds: Any
) -> int:
    """Name the artifact to ship: the fastest that meets the bounds, and why.

    Exit code 1 where none does.
    """
    from bench.judgement.recommend import Bounds, chosen_setting, recommend, recommendation_lines
    from bench.record.file import read_record

    report = read_record(record)
    found = recommend(report, chosen_setting(report, size, batch), Bounds(**bounds))
    for line in recommendation_lines(found, report):
        click.echo(line)
    return 0 if found.chosen else FOUND_WANTING


REPORT_COMMANDS: tuple[click.Command, ...] = (report_command, compare_command, recommend_command)
