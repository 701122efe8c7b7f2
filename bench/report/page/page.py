"""One record → one HTML page that needs nothing else: no network, no script, no font.

Styles, charts and pictures are inside the page, so that it can be mailed, archived and opened years
later. A policy in its head forbids the browser to load anything.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined

from bench.record import REFERENCE, Picture, Report, Row, Setting
from bench.report import columns, figures
from bench.report.columns import CALIBRATION_MARK, TIMING_MARK, Line, is_marked, marked, rows_of
from bench.report.notes import notes
from bench.report.page import charts
from bench.report.text import accuracy_grids
from dabnet.runtime.runner import SCOPES

_TYPES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif"}


def html_page(report: Report, folder: Path | None = None) -> str:
    """Return the page of a record.

    Args:
        folder: where the files of ``report.pictures`` lie. A file that is not there is named in the
            page and left out.
    """
    here = files("bench.report.page")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for text in (figures.milliseconds, figures.parts, figures.percent):
        environment.filters[text.__name__] = text
    shown: dict[str, dict[str, str]] = {}
    missing = []
    for picture in report.pictures:
        if url := _data_url(picture, folder):
            shown.setdefault(picture.image, {})[picture.shows] = url
        else:
            missing.append(f"{picture.file} ({picture.image}, {picture.shows})")
    lines = notes(report)
    template = environment.from_string(here.joinpath("page.html.j2").read_text("utf-8"))
    return template.render(
        report=report,
        sheet=here.joinpath("page.css").read_text("utf-8"),
        alerts=[n for n in lines if n.startswith(("INCOMPLETE", CALIBRATION_MARK, TIMING_MARK))],
        notes=lines,
        pictures=shown,
        missing=missing,
        accuracy_grids=accuracy_grids,
        cards=cards,
        charts=charts,
        columns=columns,
        looks=charts.looks(report),
        remarks=_remarks,
        verdicts=_verdicts,
        REFERENCE=REFERENCE,
        SCOPES=SCOPES,
    )


def _data_url(picture: Picture, folder: Path | None) -> str:
    """The picture as a URL that holds it; "" if its file is not a picture in ``folder``."""
    kind = _TYPES.get(Path(picture.file).suffix.lower())
    if folder is None or kind is None:
        return ""
    path = (folder / picture.file).resolve()
    if not path.is_relative_to(folder.resolve()):  # a record may come from anywhere
        return ""
    try:
        return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    except OSError:
        return ""


def _remarks(line: Line) -> Iterator[str]:
    """What the reader must know of a row, in small letters under its name."""
    info, timings = line.row.info, line.row.timings
    if line.is_paper:
        yield "by the protocol of the paper: comparable with published FPS, not with other rows"
        return
    if info:
        yield ", ".join((info.precision, *info.notes))
    if turns := [f"{t.scope} {many} of {len(t.turns)}" for t in timings if (many := marked(t))]:
        yield f"{TIMING_MARK} turns marked: {', '.join(turns)}"
    if line.row.reason:
        yield "failed: see below"


# --- what stands out --------------------------------------------------------------------------


class Card(NamedTuple):
    """A row that stands out: by what, its figure with the interval, and what else to know."""

    title: str
    row: Row
    figure: str
    more: str


def cards(report: Report, setting: Setting) -> Iterator[Card]:
    """The fastest row of a setting, the most accurate and the smallest.

    A row whose difference to the reference may be chance (its interval holds 0) is not called the
    most accurate.
    """
    scope = charts.chart_scope(report, setting)
    speeds = {r.name: t.fps for r in rows_of(report, setting) if (t := r.timing(scope)) and t.fps}
    rows = [row for row in rows_of(report, setting) if row.name in speeds]
    rows.sort(key=lambda row: -speeds[row.name].value)
    for row in rows[:1]:
        figure = f"{figures.rates(speeds[row.name])} FPS"
        yield Card(f"Fastest, scope {scope}", row, figure, _more(row, scope))
    scores = {row.name: row.score for row in rows if row.score}
    changes = {name: score.miou_difference for name, score in scores.items()}
    ties = [row for row in rows if (d := changes.get(row.name)) and d.low <= 0 <= d.high]
    if told := [row for row in rows if row.name in scores and row not in ties]:
        best = max(told, key=lambda row: scores[row.name].miou.value)
        more = _more(best, scope)
        if ties and best.name == REFERENCE:
            more += (
                f"; {len(ties)} rows do not differ from it beyond chance; fastest: {ties[0].name}"
            )
        yield Card("Highest mIoU", best, f"{figures.shares(scores[best.name].miou)} %", more)
    if sized := [row for row in rows if row.footprint.artifact_bytes]:
        small = min(sized, key=lambda row: row.footprint.artifact_bytes)
        size = figures.megabytes(small.footprint.artifact_bytes, 2)
        yield Card("Smallest file", small, f"{size} MB", _more(small, scope))


def _more(row: Row, scope: str) -> str:
    """How a row compares with the reference, and what is wrong with it."""
    timing = row.timing(scope)
    parts = ["the reference of this setting"] if row.name == REFERENCE else []
    if timing and timing.speed_ratio:
        parts.append(f"{figures.ratio(timing.speed_ratio)} the speed of PyTorch: {timing.verdict}")
    if row.score and row.score.miou_difference:
        parts.append(f"mIoU {figures.points(row.score.miou_difference)} points to FP32")
    if timing and marked(timing):
        parts.append(f"{TIMING_MARK} turns marked")
    if is_marked(row):
        parts.append(f"{CALIBRATION_MARK} calibration overlaps, or may overlap, the score")
    return "; ".join([*parts, *(["failed"] if row.reason else [])])


def _verdicts(report: Report, setting: Setting) -> Iterator[str]:
    """The lines below the cards of a setting."""
    drawn = charts.points(report, charts.chart_scope(report, setting), setting)
    if best := ", ".join(point.name for point in charts.front(drawn)):
        yield (
            f"No row beats these in both FPS and mIoU: {best} (point values; the intervals say"
            " which differences are real)."
        )
    rows = rows_of(report, setting)
    if failed := [row for row in rows if row.reason]:
        yield f"{len(failed)} of {len(rows)} rows did not run, or failed: see below the table."
