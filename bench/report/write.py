"""The files of a run: record, CSV, Markdown, page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.record import Report
from bench.record.file import record_text
from bench.record.private import private
from bench.report.machines import Record, machines_csv, machines_markdown
from bench.report.page.page import html_page, machines_page
from bench.report.text import csv_text, markdown
from dabnet import outputs
from dabnet.files import writable_directory, writable_target, writable_targets, write_text

RECORD, PAGE = "bench.json", "bench.html"
MACHINES = "machines.html"
_BESIDE_RECORD = outputs.Kind(
    f"a report beside its record {RECORD}", lambda path: path.with_name(RECORD).is_file()
)
_BESIDE_MACHINES = outputs.Kind(
    f"a report beside its page {MACHINES}", lambda path: path.with_name(MACHINES).is_file()
)


def check_reports(folder: Path) -> None:
    """Raise if reports in ``folder``, which may be missing, would replace what is not theirs."""
    kinds = {
        RECORD: outputs.RECORD,
        "bench.csv": _BESIDE_RECORD,
        "bench.md": _BESIDE_RECORD,
        PAGE: outputs.PAGE,
    }
    writable_targets(folder, kinds)


def write_report(report: Report, folder: Path, pictures: Path | None = None) -> list[Path]:
    """Write bench.json, bench.csv, bench.md and bench.html into ``folder``.

    The record's pictures are relative to ``pictures``, by default to ``folder``.
    """
    report = private(report)
    texts = {
        RECORD: record_text(report),
        "bench.csv": csv_text(report),
        "bench.md": markdown(report),
        PAGE: html_page(report, pictures or folder),
    }
    return _written(texts, folder)


def _written(texts: Mapping[str, str], folder: Path) -> list[Path]:
    writable_directory(folder)
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def check_machines(folder: Path) -> None:
    """Raise if reports of several records in ``folder`` would replace what is not theirs."""
    beside = dict.fromkeys(("machines.csv", "machines.md"), _BESIDE_MACHINES)
    writable_targets(folder, {**beside, MACHINES: outputs.PAGE})


def write_machines(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write machines.csv, machines.md and machines.html into ``folder``."""
    texts = {
        "machines.csv": machines_csv(records),
        "machines.md": machines_markdown(records),
        MACHINES: machines_page(records),
    }
    return _written(texts, folder)


def write_page(report: Report, record: Path) -> Path:
    """Write the page alone beside ``record``, in whose folder its pictures are."""
    page = writable_target(record.with_suffix(".html"), record, kind=outputs.PAGE)
    write_text(page, html_page(report, record.parent))
    return page
