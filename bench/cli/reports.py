"""``dabnet-bench report``, ``compare`` and ``recommend``: what is made from a record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dabnet.command_help import Command
from dabnet.console import CONTEXT, FILE, AnyCommand, Finite, Size, say
from export.spec import MOST_BATCH

if TYPE_CHECKING:
    from bench.record import Report

FOUND_WANTING = 1
"""Exit code of a regression, or if nothing meets the bounds."""

MOST_PERCENT, MOST_BOUND = 1e6, 1e9
_POSITIVE = Finite(0, MOST_BOUND, min_open=True)
SHOWN = {**CONTEXT, "show_default": True}


@click.command("report", cls=Command, context_settings=CONTEXT)
@click.argument("records", metavar="FILE.json...", type=FILE, nargs=-1, required=True)
@click.option("--html", is_flag=True, help="Write the page of one record, FILE.html, beside it.")
@click.option(
    "--output",
    type=FILE,
    metavar="DIR",
    help="Write tables and page there.",
)
def report_command(records: tuple[Path, ...], html: bool, output: Path | None) -> None:
    """Print the tables of a record again, and write its other forms.

    Several records, from other machines or days, stand in one table, each with its own reference.
    """
    if len(records) > 1:
        written = _report_machines(records, html, output)
    else:
        written = _report(records[0], html, output)
    if written:
        say("wrote " + ", ".join(map(str, written)))


def _report(record: Path, html: bool, output: Path | None) -> list[Path]:
    from bench.record.file import read_record
    from bench.report.text import print_report
    from bench.report.write import check_reports, write_page, write_report
    from dabnet.errors import InputError
    from dabnet.lock import folder_held

    if html and output is not None:
        given = "--html with --output"
        raise InputError(given, "one of them: the folder has the page too", "leave out --html")
    report = read_record(record)
    written = []
    if output is not None:
        check_reports(output)
        _keep_another_record(record, report, output / "bench.json")
        with folder_held(output, "dabnet-bench report"):
            written = write_report(report, output, pictures=record.parent)
    elif html:
        written = [write_page(report, record)]
    print_report(report)
    return written


def _report_machines(paths: tuple[Path, ...], html: bool, output: Path | None) -> list[Path]:
    from bench.record.file import read_record
    from bench.report.machines import named, print_machines
    from bench.report.write import check_machines, write_machines
    from dabnet.errors import InputError
    from dabnet.lock import folder_held

    if html and output is None:
        given = f"--html with {len(paths)} records"
        raise InputError(given, "a folder for their page", "name it with --output DIR")
    records = named([(path, read_record(path)) for path in paths])
    written = []
    if output is not None:
        check_machines(output)
        with folder_held(output, "dabnet-bench report"):
            written = write_machines(records, output)
    print_machines(records)
    return written


def _keep_another_record(record: Path, report: Report, kept: Path) -> None:
    """Raise if ``kept`` would be replaced, and is neither ``record`` nor written from it."""
    from bench.record.file import record_text
    from dabnet.errors import InputError

    own = (record.read_bytes(), record_text(report).encode())
    if kept.is_file() and kept.read_bytes() not in own:
        raise InputError(
            f"{str(kept)!r} is another record than {str(record)!r}",
            "a folder without one",
            "name another --output: measured times cannot be made again",
        )


def _limit(
    name: str,
    default: float | None,
    unit: str,
    meaning: str,
    most: float = MOST_PERCENT,
    shown: str | bool = True,
) -> Callable[[AnyCommand], AnyCommand]:
    """An option in percent for the field of ``Limits`` that it names, which is a share."""

    def share(_: object, __: object, percent: float | None) -> float | None:
        return None if percent is None else percent / 100

    field, kind = name.removeprefix("--max-").replace("-", "_"), Finite(0, most)
    return click.option(
        name,
        field,
        type=kind,
        default=default,
        callback=share,
        metavar=unit,
        help=meaning,
        show_default=shown,
    )


@click.command("compare", cls=Command, context_settings=SHOWN)
@click.argument("old", metavar="OLD.json", type=FILE)
@click.argument("new", metavar="NEW.json", type=FILE)
@_limit("--max-slowdown", 3.0, "PERCENT", "Maximum that a call may take longer.")
@_limit("--max-miou-drop", 0.3, "POINTS", "Maximum loss of mIoU in points.", 100)
@_limit("--max-memory-growth", None, "PERCENT", "Maximum growth of memory.", shown="not judged")
@click.option("--json", "output", type=FILE, metavar="FILE", help="Write the comparison as JSON.")
def compare_command(old: Path, new: Path, output: Path | None, **shares: Any) -> int:
    """Report what became slower, less accurate or larger.

    Exit code 1 if a change exceeds its threshold with its whole interval, or if a row is gone.
    """
    from bench.judgement import compare as judged
    from bench.record.file import read_record
    from dabnet.files import writable_target, write_text
    from dabnet.outputs import COMPARISON
    from dabnet.tables import terminal

    if output is not None:
        writable_target(output, old, new, kind=COMPARISON)
    limits = judged.Limits(**shares)
    found = judged.compare(read_record(old), read_record(new), limits)
    if output is not None:
        write_text(output, judged.comparison_text(found, limits, old, new))
    judged.print_comparison(terminal(), found, limits)
    return FOUND_WANTING if found.count(judged.REGRESSION) else 0


def _share(ctx: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 <= value <= 1:
        meant = f"; write {value / 100:g} for {value:g} %" if 1 < value <= 100 else ""
        raise click.BadParameter(f"expected a share from 0 to 1, got {value:g}{meant}", ctx, option)
    return value


@click.command("recommend", cls=Command, context_settings=SHOWN)
@click.argument("record", metavar="[FILE.json]", type=FILE, default="runs/bench/bench.json")
@click.option(
    "--min-miou", type=Finite(0), callback=_share, metavar="SHARE", help="Minimum mean IoU, 0 to 1."
)
@click.option("--max-latency-ms", type=_POSITIVE, metavar="MS", help="Maximum time of a call.")
@click.option(
    "--percentile",
    type=click.Choice(["p50", "p95", "p99"]),
    default="p95",
    help="Which time of a row.",
)
@click.option("--scope", type=click.Choice(["host", "device"]), default="host", help="Whose times.")
@click.option(
    "--max-memory-mb",
    type=_POSITIVE,
    metavar="MB",
    help="Maximum memory, of the GPU or else of the host.",
)
@click.option("--size", type=Size(), help="Of the images.", show_default="the only one")
@click.option(
    "--batch",
    type=click.IntRange(1, MOST_BATCH),
    help="Frames per call.",
    show_default="the smallest",
)
def recommend_command(
    record: Path, size: tuple[int, int] | None, batch: int | None, **bounds: Any
) -> int:
    """Name the artifact to ship: the fastest within the bounds.

    Exit code 1 if none does.
    """
    from bench.judgement.recommend import Bounds, chosen_setting, recommend
    from bench.record.file import read_record

    report = read_record(record)
    chosen, lines = recommend(report, chosen_setting(report, size, batch), Bounds(**bounds))
    say("\n".join(lines))
    return 0 if chosen else FOUND_WANTING


REPORT_COMMANDS: tuple[click.Command, ...] = (report_command, compare_command, recommend_command)
