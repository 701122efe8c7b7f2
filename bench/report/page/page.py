"""Records → one HTML page that needs nothing else: no network, no script, no font.

Styles, charts and pictures are inside the page, so that it can be mailed, archived and opened years
later. A policy in its head forbids the browser to load anything.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from bench.record import REFERENCE, Picture, Report, Row, Setting
from bench.record.speed import WITHIN, by_speed, compared, to_reference
from bench.report import columns, figures
from bench.report.columns import (
    BROKEN,
    SEEN_MARK,
    TIMING_MARK,
    Line,
    is_marked,
    is_sound,
    marked,
    rows_of,
)
from bench.report.machines import Record, groups, notes_of, title_of
from bench.report.notes import notes, subject_text
from bench.report.page import charts
from bench.report.text import accuracy_grids, layer_grid
from bench.statistics import EQUAL, NOT_TOLD
from dabnet.errors import InputError, printable
from dabnet.files import existing_file
from dabnet.runtime.runner import SCOPES

MOST_PICTURE_BYTES = 20_000_000
MOST_BYTES = 200_000_000
"""Of all pictures of a page."""
_KINDS = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
ALERTS = ("INCOMPLETE", BROKEN, SEEN_MARK, TIMING_MARK)
"""How a note begins that stands at the top of the page too."""


def html_page(report: Report, folder: Path | None = None) -> str:
    """Return the page of a record.

    Args:
        folder: where the files of ``report.pictures`` lie. What is not there, no JPEG or PNG, or
            larger than ``MOST_PICTURE_BYTES`` is named in the page and left out.
    """
    pictures: dict[str, dict[str, str]] = {}
    missing, room = [], MOST_BYTES
    for picture in report.pictures:
        if url := _data_url(picture, folder, min(room, MOST_PICTURE_BYTES)):
            pictures.setdefault(picture.image, {})[picture.shows] = url
            room -= len(url)
        else:
            missing.append(f"{picture.file} ({picture.image}, {picture.shows})")
    lines = [*notes(report), *charts.left_out(report)]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            alerts=[n for n in lines if is_alert(n)],
            notes=lines,
            pictures=pictures,
            missing=missing,
            colours={n: f"rgb{c}" for n, c in zip(report.classes, report.palette, strict=True)},
            scores=accuracy_grids(report),
            layers=layer_grid(report),
            looks=charts.looks(report),
            REFERENCE=REFERENCE,
            SCOPES=SCOPES,
        )
    )


def machines_page(records: Sequence[Record]) -> str:
    """Return the page of several records; their pictures and charts are on their own pages."""
    lines = notes_of(records)
    return (
        _environment()
        .get_template("machines.html.j2")
        .render(
            title=title_of(records),
            records=records,
            groups=groups(records),
            alerts=[n for n in lines if is_alert(n) or is_alert(n.partition(": ")[2])],
            notes=lines,
            colours={},
            looks={},
        )
    )


def is_alert(note: str) -> bool:
    """Whether a note also stands at the top of the page."""
    return note.startswith(ALERTS)


def _environment() -> Environment:
    loader = PackageLoader("bench.report", "page")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, finalize=_shown)
    made.filters.update(parts=figures.parts, subject_text=subject_text)
    made.globals.update(charts=charts, columns=columns, cards=cards, remarks=_remarks)
    made.globals["WITHIN"] = WITHIN
    return made


def _data_url(picture: Picture, folder: Path | None, most: int) -> str:
    """The picture as a URL that holds it.

    A record may come from anywhere: "" if its file is no picture of at most ``most`` bytes, or not
    in ``folder``, where a link may lead.
    """
    kind = _KINDS.get(Path(picture.file).suffix.lower())
    if folder is None or kind is None or most <= 0:
        return ""
    try:
        path = (folder / picture.file).resolve()
        if not path.is_relative_to(folder.resolve()):
            return ""
        with existing_file(path, "a picture").open("rb") as file:
            content = file.read(most + 1)
    except (OSError, RuntimeError, ValueError, InputError):  # such as a link to itself
        return ""
    if len(content) > most or not content.startswith(_SIGNATURES):
        return ""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _shown(value: object) -> object:
    """A text of the record without control characters; what is markup already stays as it is."""
    return printable(value) if type(value) is str else value


def _remarks(line: Line) -> Iterator[str]:
    """What the reader must know of a row, in small letters under its name."""
    info, timings = line.row.info, line.row.timings
    if line.is_paper:
        yield "by the protocol of the paper: comparable with published FPS, not with other rows"
        return
    if info:
        yield ", ".join((info.precision, *info.remarks))
    if turns := [f"{t.scope} {many} of {len(t.turns)}" for t in timings if (many := marked(t))]:
        yield f"{TIMING_MARK} turns marked: {', '.join(turns)}"
    if line.row.reason:
        yield "failed: see below"


def cards(report: Report, setting: Setting) -> Iterator[tuple[str, str, str, str]]:
    """The fastest row of a setting, the most accurate and the smallest.

    A row whose difference to the reference may be chance (its interval holds 0) is not called the
    most accurate; a broken one, or one of random weights, is called nothing.

    Yields:
        What a row excels in, its name, its figure, and what else to know.
    """
    scope = charts.chart_scope(report, setting)
    speeds = {r.name: t.fps for r in rows_of(report, setting) if (t := r.timing(scope)) and t.fps}
    rows = [r for r in rows_of(report, setting) if r.name in speeds and is_sound(report, r)]
    rows = by_speed(rows, scope)
    for row in rows[:1]:
        figure = f"{figures.rates(speeds[row.name])} FPS"
        said = "; ".join(filter(None, (_more(report, row, scope), *_rivals(rows, scope))))
        yield f"Fastest, scope {scope}", row.name, figure, said
    scored = [(row, row.score) for row in rows if row.score]
    changes = ((row, score.miou_difference) for row, score in scored)
    ties = [row for row, change in changes if change and change.low <= 0 <= change.high]
    if told := [(row, score.miou) for row, score in scored if row not in ties]:
        best, miou = max(told, key=lambda pair: pair[1].value)
        equal = [row for row in ties if row.of == best.of]
        more = [_more(report, best, scope)]
        if equal and best.on == REFERENCE:
            more.append(f"{len(equal)} rows do not differ from it beyond chance")
            more.append(f"fastest: {equal[0].name}")
        figure = f"{figures.shares(miou)} %"
        yield "Highest mIoU", best.name, figure, "; ".join(filter(None, more))
    if sized := [row for row in rows if row.footprint.artifact_bytes]:
        small = min(sized, key=lambda row: row.footprint.artifact_bytes)
        size = figures.megabytes(small.footprint.artifact_bytes, 2)
        yield "Smallest file", small.name, f"{size} MB", _more(report, small, scope)


def _rivals(rows: Sequence[Row], scope: str) -> Iterator[str]:
    """The rows that are no slower than the first, as far as the rounds tell."""
    first, *others = ((row.name, timing) for row in rows if (timing := row.timing(scope)))
    found: dict[str, list[str]] = {EQUAL: [], NOT_TOLD: []}
    for name, timing in others:
        found.setdefault(compared(first[1], timing).verdict, []).append(name)
    if names := found[EQUAL]:
        yield f"as fast {WITHIN}: {', '.join(names)}"
    if names := found[NOT_TOLD]:
        yield f"{NOT_TOLD} from {', '.join(names)}: measure more"


def _more(report: Report, row: Row, scope: str) -> str:
    """How a row compares with the reference, and what is wrong with it."""
    timing, base = row.timing(scope), report.reference(row.setting)
    parts = ["the reference of this setting"] if row is base else []
    if timing and timing.speed_ratio and base:
        name = base.name if base.of else "PyTorch"
        found = to_reference(timing).verdict
        parts.append(f"{figures.ratio(timing.speed_ratio)} the speed of {name}: {found}")
    if row.score and row.score.miou_difference:
        parts.append(f"mIoU {figures.points(row.score.miou_difference)} points to FP32")
    if timing and marked(timing):
        parts.append(f"{TIMING_MARK} turns marked")
    if is_marked(row):
        parts.append(f"{SEEN_MARK} trained or calibrated, perhaps, on scored images")
    return "; ".join([*parts, *(["failed"] if row.reason else [])])
