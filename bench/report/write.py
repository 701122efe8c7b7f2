"""The files of a run: record, CSV, Markdown, page."""

from __future__ import annotations

from pathlib import Path

from bench.record import Report
from bench.record.file import record_text
from bench.report.page.page import html_page
from bench.report.text import csv_text, markdown
from dabnet.files import writable_directory, write_text


def write_report(report: Report, folder: Path, pictures: Path | None = None) -> list[Path]:
    """Write bench.json, bench.csv, bench.md and bench.html into ``folder``.

    The record's pictures are relative to ``pictures``, by default to ``folder``.
    """
    texts = {
        "bench.json": record_text(report),
        "bench.csv": csv_text(report),
        "bench.md": markdown(report),
        "bench.html": html_page(report, pictures or folder),
    }
    writable_directory(folder)
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def write_page(report: Report, folder: Path) -> Path:
    """Write bench.html alone into ``folder``, which holds the record's pictures."""
    write_text(folder / "bench.html", html_page(report, folder))
    return folder / "bench.html"
