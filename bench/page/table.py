"""The table of the page: accuracy beside speed beside cost, one table a setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.page.markup import Html, join, table, tag
from bench.page.svg import Style, named
from bench.record import REFERENCE, Row
from bench.report.cells import CALIBRATION_MARK, is_marked
from bench.report.figures import (
    NONE,
    energy_per_frame_j,
    latency,
    marked,
    megabytes,
    milliseconds,
    number,
    percent,
    rate,
    ratio,
    signed,
)
from dabnet.intervals import Interval

_PAPER_NOTE = "by the protocol of the paper: to be compared with published FPS, not with other rows"

_SIGNS = {"faster": "▲", "slower": "▼", "indistinguishable": "≈"}


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        group: heading over several columns.
        heading: its own.
        cell: text or markup of a row; None or ``NONE`` where the record has nothing.
        optional: left out where no row has anything.
    """

    group: str
    heading: str
    cell: Callable[[Row], str | None]
    optional: bool = False


def main_table(rows: Sequence[Row], styles: dict[str, Style], caption: str) -> Html:
    """The table of one setting. A row that did not run, or not to its end, says why."""
    columns = [
        column
        for column in COLUMNS
        if not column.optional
        or any(column.cell(row) not in (None, NONE) for row in rows if not _is_paper(row))
    ]
    groups = list(dict.fromkeys(column.group for column in columns))
    spans = [sum(1 for column in columns if column.group == group) for group in groups]
    head = join(
        tag(
            "tr",
            tag("th", "artifact", rowspan=2, scope="col", class_="name"),
            *(
                tag("th", group, colspan=span, scope="colgroup", class_="group")
                for group, span in zip(groups, spans, strict=True)
            ),
        ),
        tag("tr", *(tag("th", c.heading, scope="col", class_=_first(c, columns)) for c in columns)),
    )
    body = [_row(row, columns, styles[row.name]) for row in rows]
    return table(head, body, caption, "main")


def _first(column: Column, columns: Sequence[Column]) -> str | None:
    """Class of the first column of a group, which has a line at its left."""
    same = [other for other in columns if other.group == column.group]
    classes = ["first"] if column is same[0] else []
    classes += ["paper"] if "paper" in column.group else []
    return " ".join(classes) or None


def _is_paper(row: Row) -> bool:
    """Whether all that it has is a time of the original protocol."""
    return row.accuracy is None and [t.scope for t in row.timings if t.latency] == ["paper"]


def _row(row: Row, columns: Sequence[Column], style: Style) -> Html:
    name = tag("th", _name(row, style), scope="row", class_="name")
    ran = row.accuracy is not None or any(timing.latency for timing in row.timings)
    if row.reason and not ran:
        reason = tag("div", tag("b", "not run: "), row.reason, class_="reason")
        return tag("tr", name, tag("td", reason, colspan=len(columns)), class_="failed")
    if _is_paper(row) and not row.reason:
        fps = _fps("paper")(row) or NONE
        said = tag("div", tag("b", "FPS ", fps), _PAPER_NOTE, class_="reason")
        return tag("tr", name, tag("td", said, colspan=len(columns), class_="paper"))
    cells = [tag("td", c.cell(row) or NONE, class_=_first(c, columns)) for c in columns]
    if not row.reason:
        return tag("tr", name, *cells)
    reason = tag("div", tag("b", "did not come to its end: "), row.reason, class_="reason")
    more = tag("tr", tag("td", reason, colspan=len(columns) + 1), class_="failed")
    return join(tag("tr", name, *cells), more)


def _name(row: Row, style: Style) -> Html:
    info = row.info
    facts = [info.precision, *info.notes] if info else []
    turns = [
        f"{timing.scope} {many} of {len(timing.turns)}"
        for timing in row.timings
        if (many := marked(timing, True))
    ]
    return join(
        named(row.name, style),
        tag("small", ", ".join(facts)) if facts else None,
        tag("small", f"▲ turns marked: {', '.join(turns)}", class_="warn") if turns else None,
    )


def _with_interval(value: str, low: str, high: str) -> Html:
    return join(value, tag("small", f"[{low}, {high}]"))


def _share(interval: Interval) -> Html:
    return _with_interval(*(percent(v) for v in (interval.value, interval.low, interval.high)))


def _miou(row: Row) -> str | None:
    score = row.accuracy.score if row.accuracy else None
    if score is None:
        return None
    text = _share(score.miou)
    return join(text, tag("small", CALIBRATION_MARK, class_="warn")) if is_marked(row) else text


def _difference(row: Row) -> str | None:
    score = row.accuracy.score if row.accuracy else None
    if score is None:
        return None
    if score.miou_difference is None:
        return "reference" if row.name == REFERENCE else None
    d = score.miou_difference
    return _with_interval(*(signed(v, scale=100) for v in (d.value, d.low, d.high)))


def _category(row: Row) -> str | None:
    score = row.accuracy.score if row.accuracy else None
    known = [iou for iou in score.category_iou if iou is not None] if score else []
    return percent(sum(known) / len(known)) if known else None


def _pixels(row: Row) -> str | None:
    score = row.accuracy.score if row.accuracy else None
    return percent(score.pixel_accuracy) if score else None


def _agreement(row: Row) -> str | None:
    shares = row.accuracy.agreement if row.accuracy else None
    return percent(sum(shares) / len(shares), 3) if shares else None


def _fps(scope: str) -> Callable[[Row], str | None]:
    def cell(row: Row) -> str | None:
        timing = row.timing(scope)
        if timing is None or timing.fps is None:
            return None
        return _with_interval(
            *(rate(v) for v in (timing.fps.value, timing.fps.low, timing.fps.high))
        )

    return cell


def _percentile(scope: str, name: str) -> Callable[[Row], str | None]:
    def cell(row: Row) -> str | None:
        found = latency(row, scope)
        return milliseconds(getattr(found, name)) if found else None

    return cell


def _speed(scope: str) -> Callable[[Row], str | None]:
    def cell(row: Row) -> str | None:
        timing = row.timing(scope)
        if timing is None:
            return None
        if timing.speed_ratio is None:
            return "reference" if row.name == REFERENCE else None
        value, _, interval = ratio(timing.speed_ratio).partition(" ")
        verdict = f"{_SIGNS.get(timing.verdict, '')} {timing.verdict}"
        return join(value, tag("small", interval), tag("small", verdict, class_="verdict"))

    return cell


def _energy(row: Row) -> str | None:
    joules = energy_per_frame_j(row, "host")
    return None if joules is None else number(joules, 1, 1e3)


_ACCURACY, _HOST, _DEVICE = "accuracy", "speed, scope host", "scope device"
_PAPER, _COST = "another protocol: paper", "cost"

COLUMNS = (
    Column(_ACCURACY, "mIoU %", _miou),
    Column(_ACCURACY, "Δ to FP32, points", _difference),
    Column(_ACCURACY, "category IoU %", _category),
    Column(_ACCURACY, "pixels right %", _pixels),
    Column(_ACCURACY, "agrees with FP32 %", _agreement),
    Column(_HOST, "FPS", _fps("host")),
    Column(_HOST, "p50 ms", _percentile("host", "p50_ms")),
    Column(_HOST, "p95 ms", _percentile("host", "p95_ms")),
    Column(_HOST, "p99 ms", _percentile("host", "p99_ms")),
    Column(_HOST, "speed to PyTorch", _speed("host")),
    Column(_DEVICE, "p50 ms", _percentile("device", "p50_ms")),
    Column(_DEVICE, "speed to PyTorch", _speed("device")),
    Column(
        _DEVICE,
        "of the limit %",
        lambda row: percent(row.limit.share, 1) if row.limit and row.limit.share else None,
    ),
    Column(_PAPER, "FPS", _fps("paper"), optional=True),
    Column(_COST, "host MB", lambda row: megabytes(row.footprint.host_peak_bytes)),
    Column(_COST, "GPU MB", lambda row: megabytes(row.footprint.device_peak_bytes), optional=True),
    Column(_COST, "file MB", lambda row: megabytes(row.footprint.artifact_bytes or None, 2)),
    Column(_COST, "load s", lambda row: number(row.footprint.load_s)),
    Column(_COST, "first call s", lambda row: number(row.footprint.first_inference_s)),
    Column(_COST, "GPU mJ a frame", _energy, optional=True),
)
