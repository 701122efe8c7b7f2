"""One record → terminal table, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path
from typing import TYPE_CHECKING

from bench.disturbance import DISTURBED_CORES
from bench.int8_worth import int8_worth
from bench.overlap import UNKNOWN
from bench.record import Report, Row
from dabnet.files import writable_directory, write_text

if TYPE_CHECKING:
    from rich.table import Table

HEADINGS = (
    "artifact",
    "mIoU %",
    "Δ to FP32 [95 %]",
    "agrees %",
    "FPS",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "speed to PyTorch [95 %]",
    "scope",
    "note",
)


MARK = "†"
"""Beside the mIoU of a row that was, or may have been, calibrated on the images of its score."""


def cells(row: Row) -> tuple[str, ...]:
    """One row of text under ``HEADINGS``; a row that did not run says why in its note."""
    if row.latency is None or row.miou is None:
        return (row.name, *("–",) * 8, row.scope, f"not run: {row.reason}")
    difference, ratio, time = row.miou_difference, row.speed_ratio, row.latency
    return (
        row.name,
        f"{100 * row.miou.value:.2f}" + (f" {MARK}" if _is_marked(row) else ""),
        f"{100 * difference.value:+.2f} [{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]"
        if difference
        else "reference",
        f"{100 * row.agreement:.3f}" if row.agreement is not None else "–",
        f"{time.fps:.1f}",
        f"{time.p50_ms:.2f}",
        f"{time.p95_ms:.2f}",
        f"{time.p99_ms:.2f}",
        f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] {row.verdict}"
        if ratio
        else "reference",
        row.scope,
        ", ".join(row.info.notes) if row.info else "",
    )


def footnotes(report: Report) -> list[str]:
    """What the numbers are of: the lines under the table."""
    scenario, (height, width) = report.scenario, report.size
    scopes = {
        "host": "uint8 image in host memory → class mask in host memory, copies included",
        "device": "uint8 image resident where the backend computes → mask resident there",
    }
    ran = {row.info.backend: row.info for row in report.rows if row.info}
    backends = "; ".join(
        f"{i.backend} {i.version} on {i.device} ({', '.join(i.notes)})" for i in ran.values()
    )
    return [
        f"{report.model}, {report.checkpoint} ({report.checkpoint_sha256[:12]}), {height}x{width},"
        f" batch {scenario['batch']}.",
        f"Accuracy: {report.images} images of {report.dataset} {report.split} at {height}x{width};"
        " intervals: paired bootstrap over images.",
        f"Speed: scope {scenario['scope']}, {scopes[scenario['scope']]};"
        f" {scenario['rounds']} interleaved rounds; FPS is frames by total time; intervals:"
        " Student's t over paired rounds.",
        f"Ran: {backends}.",
        *int8_worth(report),
        *_arithmetic(report),
        *_marks(report),
        _disturbance(report.foreign_cores),
        "Machine: "
        + "; ".join(f"{name} {value}" for name, value in report.environment.items())
        + ".",
    ]


def _arithmetic(report: Report) -> list[str]:
    """A line for each way in which int8 was computed, and how far the timed masks are from it."""
    lines: dict[str, list[str]] = {}
    for row in report.rows:
        if not row.arithmetic or row.info is None:
            continue
        line = f"accuracy in {row.arithmetic}"
        if row.timed_agreement is not None and row.timed_miou is not None:
            line += (
                f"; timed were {row.info.arithmetic}: the same mask on"
                f" {100 * row.timed_agreement:.2f} % of pixels (mIoU {100 * row.timed_miou:.2f})"
            )
        lines.setdefault(line, []).append(row.name)
    return [f"{', '.join(names)}: {line}." for line, names in lines.items()]


def _is_marked(row: Row) -> bool:
    return bool(row.overlap) or row.calibrated_on == UNKNOWN


def _marks(report: Report) -> list[str]:
    """What each ``MARK`` is about."""
    lines = []
    for row in filter(_is_marked, report.rows):
        if row.overlap:
            line = (
                f"calibrated on {len(row.overlap)} of the {report.images} images that it is scored"
                f" on, such as {row.overlap[0]}: no measure of its accuracy on new images."
            )
        else:
            line = "calibration images unknown: it may be scored on them."
        lines.append(f"{MARK} {row.name}: {line}")
    return lines


def _disturbance(foreign_cores: float | None) -> str:
    if foreign_cores is None:
        return "Load of other processes during the timing: unknown on this system."
    load = f"Other processes kept {foreign_cores:.2f} cores busy during the timing"
    if foreign_cores < DISTURBED_CORES:
        return f"{load}."
    return f"DISTURBED: {load}: do not quote these speeds; close other programs and repeat."


def terminal_table(report: Report) -> Table:
    """Return the table for ``rich.print``."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    height, width = report.size
    title = f"{report.model} at {height}x{width}, {report.dataset} {report.split}"
    table = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=True)
    for heading in HEADINGS[:-1]:
        left = heading in ("artifact", "scope")
        # In a narrow terminal cells are folded: a figure must never be cut off.
        table.add_column(heading, justify="left" if left else "right", overflow="fold")
    for row in report.rows:
        name, miou, *rest = map(escape, cells(row)[:-1])  # '[cpu]' is no markup
        table.add_row(name, miou if row.latency else "not run", *rest)
    return table


def reasons(report: Report) -> list[str]:
    """Why rows did not run, one line a reason: beside the table they would make it unreadable."""
    names: dict[str, list[str]] = {}
    for row in report.rows:
        if row.reason:
            names.setdefault(row.reason, []).append(row.name)
    return [f"{', '.join(rows)}: not run: {reason}" for reason, rows in names.items()]


def markdown(report: Report) -> str:
    """Return the table, per-class IoU and what the numbers are of as Markdown."""
    lines = [
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "---|" * len(HEADINGS),
        *("| " + " | ".join(cells(row)) + " |" for row in report.rows),
        "",
        *(f"- {note}" for note in footnotes(report)),
        "",
        "IoU of each class, %:",
        "",
        "| class | " + " | ".join(row.name for row in report.rows if row.class_iou) + " |",
        "|---|" + "---|" * sum(1 for row in report.rows if row.class_iou),
    ]
    for number, name in enumerate(report.classes):
        values = [row.class_iou[number] for row in report.rows if row.class_iou]
        texts = ("–" if value is None else f"{100 * value:.2f}" for value in values)
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def csv_text(report: Report) -> str:
    """Return one line a row, numbers in their base units (shares 0…1, milliseconds)."""
    text = io.StringIO()
    lines = [_flat(row) for row in report.rows]
    names = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _flat(row: Row) -> dict[str, object]:
    """One row as named scalars; what was not measured is absent."""
    flat: dict[str, object] = {
        "name": row.name,
        "scope": row.scope,
        "ran": int(row.latency is not None),
        "reason": row.reason,
    }
    if row.info is not None:
        info = dataclasses.asdict(row.info)
        flat |= {name: info[name] for name in ("backend", "version", "device", "precision")}
    intervals = {
        "miou": row.miou,
        "miou_difference": row.miou_difference,
        "speed_ratio": row.speed_ratio,
    }
    for name, interval in intervals.items():
        if interval is not None:
            flat |= {name: interval.value, f"{name}_low": interval.low}
            flat[f"{name}_high"] = interval.high
    if row.latency is not None:
        flat |= dataclasses.asdict(row.latency)
        flat |= {"verdict": row.verdict, "artifact_bytes": row.artifact_bytes}
        flat |= {"arithmetic": row.arithmetic, "calibrated_on": row.calibrated_on}
        flat["overlap"] = len(row.overlap)
    for name in ("agreement", "timed_agreement", "timed_miou"):
        if (value := getattr(row, name)) is not None:
            flat[name] = value
    return flat


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write bench.json, bench.csv and bench.md into ``folder``."""
    writable_directory(folder)
    texts = {
        "bench.json": report.to_json(),
        "bench.csv": csv_text(report),
        "bench.md": markdown(report),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]
