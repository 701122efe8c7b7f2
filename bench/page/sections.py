"""Sections of the page with the table and its charts, each with one part a setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.page.charts import chart_scope, scatter, scatter_points
from bench.page.latency_charts import boxes, distribution
from bench.page.markup import Html, details, headings, join, table, tag
from bench.page.round_charts import rounds, turn_key
from bench.page.svg import Style, key
from bench.page.table import main_table
from bench.record import REFERENCE, Report, Row, Score
from bench.report.cells import is_marked
from bench.report.figures import NONE, percent, signed
from dabnet.runtime.runner import SCOPES

Styles = dict[str, Style]

_SCATTER = "Accuracy against speed"


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page; ``id`` is what a link to it names."""

    id: str
    title: str
    body: Html

    def html(self) -> Html:
        """The part under its heading."""
        heading = tag("h2", self.title, id=self.id)
        return tag("section", heading, self.body, aria_labelledby=self.id)


def section(id_: str, title: str, *children: str | None) -> Section | None:
    """A section; None where it has nothing to show."""
    return Section(id_, title, join(*children)) if any(children) else None


def by_setting(report: Report, draw: Callable[[Sequence[Row]], str | None]) -> Html:
    """What ``draw`` makes of the rows of each setting, under its name where there are several."""
    parts = []
    for setting in report.settings:
        drawn = draw([row for row in report.rows if row.setting == setting])
        if drawn:
            title = tag("h3", str(setting)) if len(report.settings) > 1 else None
            parts.append(join(title, drawn))
    return join(*parts)


def table_section(report: Report, styles: Styles) -> Section | None:
    """The table."""
    data = f"{report.dataset} {report.split}".strip()
    tables = by_setting(
        report,
        lambda rows: main_table(rows, styles, f"{report.model}, {data}, {rows[0].setting}"),
    )
    note = (
        "In brackets: 95 % intervals. Δ to FP32 is paired image by image, speed to PyTorch round by"
        " round; ≈ indistinguishable: the interval holds 1. – was not measured."
        " MB are 10⁶ bytes; memory is the most that the process of the row held."
    )
    dagger = "† calibrated, or perhaps calibrated, on images of its score: see above."
    marked = any(is_marked(row) for row in report.rows)
    return section(
        "table",
        "Accuracy, speed and cost",
        tables,
        tag("p", note, f" {dagger}" if marked else None, class_="note"),
        _native(report),
        _arithmetic(report),
    )


def _native(report: Report) -> Html | None:
    """mIoU at the labels' own size, where that is not the size that is timed."""
    lines = [
        f"{row.name} ({row.setting}): {percent(score.miou.value)}"
        f" [{percent(score.miou.low)}, {percent(score.miou.high)}]"
        for row in report.rows
        if row.accuracy and (score := row.accuracy.native_score)
    ]
    if not lines:
        return None
    return details(
        "mIoU % at the labels' own size, the mask enlarged to it",
        tag("ul", *(tag("li", line) for line in lines)),
    )


def _arithmetic(report: Report) -> Html | None:
    """How int8 was computed for the score and on the clock, where it is known."""
    lines: list[str] = []
    for row in report.rows:
        accuracy = row.accuracy
        if accuracy is None or not (accuracy.arithmetic or accuracy.calibrated_on):
            continue
        parts = [f"scored in {accuracy.arithmetic}"] if accuracy.arithmetic else []
        if row.info and row.info.arithmetic:
            parts.append(f"timed in {row.info.arithmetic}")
        if accuracy.timed_agreement is not None:
            parts.append(f"timed masks equal {percent(accuracy.timed_agreement)} % of pixels")
        if accuracy.timed_miou is not None:
            parts.append(f"mIoU of the timed masks {percent(accuracy.timed_miou)} %")
        if accuracy.calibrated_on:
            parts.append(f"calibrated on {accuracy.calibrated_on}")
        lines.append(f"{row.name} ({row.setting}): {'; '.join(parts)}")
    if not lines:
        return None
    return details(
        "INT8: arithmetic and calibration", tag("ul", *(tag("li", line) for line in lines))
    )


def scatter_section(report: Report, styles: Styles) -> Section | None:
    """mIoU against FPS."""

    def draw(rows: Sequence[Row]) -> Html:
        drawn = scatter_points(rows)
        names = {point.name for point in drawn}
        missing = ", ".join(row.name for row in rows if row.name not in names)
        scope = chart_scope(rows)
        text = f"Not drawn, without an mIoU or FPS of scope {scope}: {missing}."
        left_out = tag("p", text, class_="note")
        chart = tag("figure", scatter(drawn, styles, scope)) if drawn else None
        return join(chart, left_out if missing else None)

    if not any(scatter_points([row]) for row in report.rows):
        return section(
            "scatter",
            _SCATTER,
            tag("p", "No row has both an mIoU and FPS of scope host or device."),
        )
    note = (
        "Up and right is better. Bars are 95 % intervals; the stairs are the Pareto front of the"
        " point values. Colour says the backend, shape the variant. Between rows the paired"
        " differences of the table are sharper than these bars, which hold for each row alone."
    )
    return section("scatter", _SCATTER, by_setting(report, draw), tag("p", note, class_="note"))


def _scopes(rows: Sequence[Row]) -> list[str]:
    """Scopes of the rows whose samples are single calls: those of ``paper`` are means of many."""
    timed = dict.fromkeys(timing.scope for row in rows for timing in row.timings)
    return [scope for scope in timed if scope in SCOPES]


def latency_section(report: Report, styles: Styles) -> Section | None:
    """How latencies are distributed."""

    def draw(rows: Sequence[Row]) -> Html | None:
        scopes = _scopes(rows)
        charts = {s: chart for s in scopes if (chart := boxes(rows, styles, s))}
        parts = [
            details(f"scope {scope}", tag("figure", chart), open_=number == 0)
            for number, (scope, chart) in enumerate(charts.items())
        ]
        panels = [
            distribution(row, styles[row.name])
            for row in rows
            if any(row.timing(scope) for scope in SCOPES)
        ]
        if not panels:
            return None
        lines = "Solid: scope host; dashed: device. Dots: p50, p95, p99."
        lines += " Each panel has an axis of its own."
        return join(
            *parts,
            details(
                "Distribution of each row",
                tag("p", lines, class_="note"),
                tag("div", *panels, class_="panels"),
            ),
        )

    note = (
        "Every call of the counted turns; none is trimmed. Box: quartiles; thick line: p50; line"
        " with a bar: p95; with a flag: p99; thin line: least to greatest. Small strokes are single"
        " calls: the slowest 20, and up to 100 others evenly spaced in rank."
    )
    drawn = by_setting(report, draw)
    text = tag("p", note, class_="note") if drawn else None
    return section("latency", "Latency of single calls", drawn, text)


def rounds_section(report: Report) -> Section | None:
    """Turns over time."""
    ends = [
        turn.start_s + turn.wall_s
        for row in report.rows
        for timing in row.timings
        if timing.scope in SCOPES
        for turn in timing.turns
    ]

    def draw(rows: Sequence[Row]) -> Html | None:
        scopes = _scopes(rows)
        parts: list[Html | None] = []
        for scope in scopes:
            panels = [
                rounds(row, timing, max(ends))
                for row in rows
                for timing in row.timings
                if timing.scope == scope and any(turn.samples_ns for turn in timing.turns)
            ]
            box = tag("div", *panels, class_="panels wider")
            parts.append(details(f"scope {scope}", box, open_=not parts) if panels else None)
        return join(*parts)

    drawn = by_setting(report, draw)
    if not drawn:
        return None
    words = {
        "counted": "counted",
        "disturbed": "disturbed",
        "throttled": "throttled",
        "repeated": "round repeated, not counted",
    }
    legend = [tag("span", turn_key(kind), text) for kind, text in words.items()]
    note = "Each panel has an axis of its own, of no less than ±2 %; all share the time axis."
    return section(
        "rounds",
        "Rounds over time",
        tag("p", *legend, class_="legend"),
        drawn,
        tag("p", note, class_="note"),
    )


def classes_section(report: Report, styles: Styles) -> Section | None:
    """IoU of each class, as bars and as differences to the reference."""

    def draw(rows: Sequence[Row]) -> Html | None:
        scored = [(r.name, r.accuracy.score) for r in rows if r.accuracy and r.accuracy.score]
        if not scored:
            return None
        panels = [_class_bars(report, n, scored, styles) for n in range(len(report.classes))]
        differences = _class_table(report, scored, rows)
        return join(tag("div", *panels, class_="panels classes"), differences)

    return section("classes", "IoU of each class", by_setting(report, draw))


def _swatch(report: Report, index: int) -> Html:
    colour = "#{:02x}{:02x}{:02x}".format(*report.palette[index])
    swatch = tag("span", class_="swatch", style=f"background:{colour}", aria_hidden="true")
    return join(swatch, report.classes[index])


def _class_bars(
    report: Report, index: int, scored: Sequence[tuple[str, Score]], styles: Styles
) -> Html:
    lines = []
    for name, score in scored:
        iou = score.class_iou[index]
        width = f"width:{100 * (iou or 0.0):.2f}%"
        fill = tag("span", class_=f"fill b{styles[name].colour}", style=width)
        lines.append(
            tag(
                "li",
                tag("span", key(styles[name]), tag("span", name), class_="bar-name"),
                tag("span", fill, class_="track", aria_hidden="true"),
                tag("span", percent(iou, 1), class_="bar-value"),
            )
        )
    title = tag("figcaption", _swatch(report, index))
    return tag("figure", title, tag("ul", *lines, class_="bars"), class_="panel")


def _class_table(
    report: Report, scored: Sequence[tuple[str, Score]], rows: Sequence[Row]
) -> Html | None:
    """Differences to the reference in points; None where the reference has no score."""
    reference = dict(scored).get(REFERENCE)
    others = [(name, score) for name, score in scored if name != REFERENCE]
    if reference is None or not others:
        return None
    body = []
    for index in range(len(report.classes)):
        base = reference.class_iou[index]
        cells = [tag("td", _change(score.class_iou[index], base)) for _, score in others]
        name = tag("th", _swatch(report, index), scope="row", class_="name")
        body.append(tag("tr", name, tag("td", percent(base)), *cells))
    head = headings(("class", f"{REFERENCE}, IoU %", *(name for name, _ in others)))
    caption = f"Points of IoU more or less than {REFERENCE}, {rows[0].setting}"
    note = "▲ ▼: a whole point or more. A class of few pixels changes by chance the most."
    return join(table(head, body, caption, "classes"), tag("p", note, class_="note"))


def _change(iou: float | None, base: float | None) -> str:
    if iou is None or base is None:
        return NONE
    sign = "▲ " if iou - base >= 0.01 else "▼ " if iou - base <= -0.01 else ""
    return sign + signed(iou - base, scale=100)
