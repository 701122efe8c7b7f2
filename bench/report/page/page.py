"""One record → one HTML page that needs nothing else: no network, no script, no font.

Styles, charts and pictures are inside the page, so that it can be mailed, archived and opened years
later. A policy in its head forbids the browser to load anything.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from bench.record import REFERENCE, Picture, Report, Row, Setting
from bench.report import figures
from bench.report.columns import (
    CALIBRATION_MARK,
    COST,
    LIMIT,
    MORE,
    SPEED,
    TIMING_MARK,
    Line,
    Table,
    is_marked,
    marked,
    reasons,
    rows_of,
    table,
)
from bench.report.notes import calibration, notes
from bench.report.page import charts
from dabnet.runtime.runner import SCOPES

_TYPES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif"}


def html_page(report: Report, folder: Path | None = None) -> str:
    """Return the page of a record.

    Args:
        folder: where the files of ``report.pictures`` lie. A file that is not there is named in the
            page and left out.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for text in (figures.milliseconds, figures.number, figures.parts, figures.percent):
        environment.filters[text.__name__] = text
    environment.filters |= {
        "signed": figures.signed,
        "json": partial(json.dumps, indent=2, ensure_ascii=False),
    }
    here = files("bench.report.page")
    template = environment.from_string(here.joinpath("page.html.j2").read_text("utf-8"))
    shown: dict[str, dict[str, str]] = {}
    missing = []
    for picture in report.pictures:
        if url := _data_url(picture, folder):
            shown.setdefault(picture.image, {})[picture.shows] = url
        else:
            missing.append(f"{picture.file} ({picture.image}, {picture.shows})")
    return template.render(
        report=report,
        sheet=here.joinpath("page.css").read_text("utf-8"),
        looks=charts.looks(report),
        facts=_facts(report),
        banners=list(_banners(report)),
        parts=[_part(report, setting) for setting in report.settings],
        pictures=shown,
        missing=missing,
        measured=_measured(report),
        notes=notes(report),
        remarks=_remarks,
        REFERENCE=REFERENCE,
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


def _remarks(line: Line) -> list[str]:
    """What the reader must know of a row, in small letters under its name."""
    info, timings = line.row.info, line.row.timings
    if line.is_paper:
        return ["by the protocol of the paper: comparable with published FPS, not with other rows"]
    turns = [f"{t.scope} {many} of {len(t.turns)}" for t in timings if (many := marked(t))]
    return [
        *([", ".join((info.precision, *info.notes))] if info else []),
        *([f"{TIMING_MARK} turns marked: {', '.join(turns)}"] if turns else []),
        *(["failed: see below"] if line.row.reason else []),
    ]


def _facts(report: Report) -> dict[str, str]:
    """The run in a few words, for the head of the page."""
    scored = f"{len(report.images)} images of {report.dataset} {report.split}".strip()
    devices = dict.fromkeys(row.info.device for row in report.rows if row.info)
    return {
        "checkpoint": f"{report.checkpoint} ({report.checkpoint_sha256[:12]})",
        "scored on": scored + ("" if report.labelled else ", without labels"),
        "settings": "; ".join(map(str, report.settings)) or "none",
        "device": report.peaks.device if report.peaks else ", ".join(devices),
        "started": report.started,
    }


def _measured(report: Report) -> dict[str, dict[str, Any]]:
    """Groups of names and values: where and how it was measured."""
    harness = None if report.harness_ns is None else report.harness_ns / 1e6
    return {
        "Machine and versions": dict(report.environment),
        "Scenario": {
            **{
                k: ", ".join(map(str, v)) if isinstance(v, (list, tuple)) else v
                for k, v in report.scenario.items()
            },
            "overhead of the timer per call, ms": figures.milliseconds(harness),
        },
        "What ran": {
            f"{r.name}, {r.setting}": _ran(r) for r in report.rows if r.info or r.artifact
        },
        "Images of the score": {str(len(report.images)): ", ".join(report.images)},
        "Record": {
            "started": report.started or figures.NONE,
            "checkpoint SHA-256": report.checkpoint_sha256,
            "key": report.key or figures.NONE,
            "format": report.format,
            "complete": "yes" if report.complete else "no",
        },
    }


def _ran(row: Row) -> str:
    parts = [row.artifact] if row.artifact else []
    if info := row.info:
        parts += [f"{info.backend} {info.version}", info.device, info.precision]
        parts += ["x".join(map(str, info.shape)), *info.notes]
    return "; ".join(parts)


# --- banners ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Banner:
    """A warning (``alert``) or a note above the figures, with the rows that it is about."""

    title: str
    text: str
    rows: Sequence[str] = ()
    kind: str = "alert"


def _banners(report: Report) -> Iterator[Banner]:
    """A banner for each thing that forbids to quote the figures as they are."""
    if not report.complete:
        text = "the run was stopped: rows may be missing or have fewer rounds."
        yield Banner("Incomplete record", text)
    if counted := _turns(report, True):
        text = "Do not quote the speeds of these rows: turns that count are marked."
        yield Banner("Marked turns", text, counted)
    if overlaps := list(dict.fromkeys(calibration(report, r) for r in report.rows if is_marked(r))):
        yield Banner("Calibration overlap", "The accuracy of these rows is in doubt.", overlaps)
    if repeated := _turns(report, False):
        text = "Turns were marked and do not count."
        yield Banner("Rounds repeated", text, repeated, "note")
    if failed := [f"{row.name}{_where(report, row)}" for row in report.rows if row.reason]:
        text = f"{len(failed)} of {len(report.rows)} rows did not run, or failed."
        yield Banner("Rows without a result", text, failed, "note")


def _where(report: Report, row: Row) -> str:
    """The setting of a row, where there are several."""
    return f" at {row.setting}" if len(report.settings) > 1 else ""


def _turns(report: Report, counted: bool) -> list[str]:
    """Rows with marked turns: ``onnxruntime-int8 (disturbed; host 2 of 10 turns)``."""
    found = []
    for row in report.rows:
        timings = [timing for timing in row.timings if marked(timing, counted)]
        turns = [turn for t in timings for turn in t.turns if turn.counted is counted]
        if timings:
            marks = ", ".join(dict.fromkeys(mark for turn in turns for mark in turn.marks))
            many = ", ".join(f"{t.scope} {marked(t, counted)} of {len(t.turns)}" for t in timings)
            found.append(f"{row.name}{_where(report, row)} ({marks}; {many} turns)")
    return found


# --- one setting ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Card:
    """A row that stands out."""

    title: str
    name: str
    figure: str
    interval: str
    more: Sequence[str]


Chart = tuple[str, str]
"""SVG for a wide and for a narrow page; "" for nothing to draw."""


@dataclass(frozen=True, slots=True)
class Part:
    """What the sections of the page show of one setting.

    Attributes:
        scope: whose FPS are compared in ``cards`` and ``scatter``.
        front: names of the rows that no other beats in both FPS and mIoU.
        undrawn: names of the rows that ``scatter`` lacks.
        latencies, rounds: by scope.
    """

    setting: Setting
    rows: list[Row]
    scope: str
    cards: list[Card]
    front: list[str]
    main: Table
    details: Table
    limits: Table
    reasons: list[str]
    scatter: Chart
    undrawn: list[str]
    latencies: dict[str, Chart]
    distributions: Chart
    rounds: dict[str, Chart]


def _part(report: Report, setting: Setting) -> Part:
    rows, scope = rows_of(report, setting), charts.chart_scope(report, setting)
    points = {point.name for point in charts.points(report, scope, setting)}

    def pair(draw: Any, *args: Any) -> Chart:
        return draw(report, *args, charts.WIDE), draw(report, *args, charts.NARROW)

    def by_scope(draw: Any) -> dict[str, Chart]:
        drawn = {name: pair(draw, name, setting) for name in SCOPES}
        return {name: chart for name, chart in drawn.items() if chart[0]}

    return Part(
        setting,
        rows,
        scope,
        list(_cards(rows, scope)),
        charts.front(report, scope, setting),
        table(report, setting, SPEED),
        table(report, setting, COST, MORE),
        table(report, setting, LIMIT),
        reasons(report, setting),
        pair(charts.scatter, scope, setting),
        [row.name for row in rows if row.name not in points],
        by_scope(charts.latencies),
        pair(charts.distributions, setting),
        by_scope(charts.rounds),
    )


def _cards(rows: list[Row], scope: str) -> Iterator[Card]:
    """The fastest row, the most accurate and the smallest."""
    speeds = {row.name: t.fps for row in rows if (t := row.timing(scope)) and t.fps}
    fast = sorted(rows, key=lambda r: -speeds[r.name].value if r.name in speeds else 0.0)
    if not speeds:
        return
    value, interval, _ = figures.parts(figures.rates(speeds[fast[0].name]))
    title = f"Fastest, scope {scope}"
    yield Card(title, fast[0].name, f"{value} FPS", interval, _against(fast[0], scope))
    scores = {row.name: row.accuracy.score for row in fast if row.accuracy and row.accuracy.score}
    ties = [
        row
        for row in fast
        if (s := scores.get(row.name)) and (d := s.miou_difference) and d.low <= 0 <= d.high
    ]
    told = [row for row in fast if row.name in scores and row not in ties]
    if told:
        best = max(told, key=lambda row: scores[row.name].miou.value)
        value, interval, _ = figures.parts(figures.shares(scores[best.name].miou))
        more = _against(best, scope)
        if ties and best.name == REFERENCE:
            more.append(
                f"{len(ties)} rows do not differ from it beyond chance; fastest: {ties[0].name}"
            )
        yield Card("Highest mIoU", best.name, f"{value} %", interval, more)
    if sized := [row for row in fast if row.name in speeds and row.footprint.artifact_bytes]:
        small = min(sized, key=lambda row: row.footprint.artifact_bytes)
        size = f"{figures.megabytes(small.footprint.artifact_bytes, 2)} MB"
        yield Card("Smallest file", small.name, size, "", _against(small, scope))


def _against(row: Row, scope: str) -> list[str]:
    """Speed and accuracy of a row against the reference, and what its figures suffer from."""
    score, timing = row.accuracy.score if row.accuracy else None, row.timing(scope)
    parts = ["the reference of this setting"] if row.name == REFERENCE else []
    if timing and timing.speed_ratio:
        parts.append(f"{figures.ratio(timing.speed_ratio)} the speed of PyTorch: {timing.verdict}")
    if score and score.miou_difference:
        parts.append(f"mIoU {figures.points(score.miou_difference)} points to FP32")
    if timing and marked(timing):
        parts.append(f"{TIMING_MARK} turns marked")
    if is_marked(row):
        parts.append(f"{CALIBRATION_MARK} calibration overlaps, or may overlap, the score")
    return parts + (["failed"] if row.reason else [])
