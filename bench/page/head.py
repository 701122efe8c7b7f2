"""Head of the page: what was measured, what stands out, and what the reader must be warned of."""

from __future__ import annotations

from collections.abc import Sequence

from bench.page.charts import chart_scope, front_of, scatter_points
from bench.page.markup import Html, details, tag
from bench.record import REFERENCE, Report, Row, Setting
from bench.report.cells import CALIBRATION_MARK, is_marked
from bench.report.figures import marked, percent, points, rate, ratio

FEW = 4
"""Up to how many rows a banner names at once."""


def head(report: Report) -> Html:
    """Title, the facts of the run, warnings, and for each setting what stands out."""
    settings = report.settings
    scored = f"{len(report.images)} images of {report.dataset} {report.split}".strip()
    facts = {
        "checkpoint": tag(
            "span",
            report.checkpoint,
            tag("code", report.checkpoint_sha256[:12], title=report.checkpoint_sha256),
        ),
        "scored on": scored + ("" if report.labelled else ", without labels"),
        "settings": "; ".join(map(str, settings)) or "none",
        "device": report.peaks.device if report.peaks else _devices(report.rows),
        "started": report.started,
    }
    return tag(
        "header",
        tag("p", "dabnet-bench", class_="kicker"),
        tag(
            "h1", f"{report.model} on {report.dataset}", f" {report.split}" if report.split else ""
        ),
        tag(
            "dl",
            *(tag("div", tag("dt", name), tag("dd", text)) for name, text in facts.items() if text),
            class_="facts",
        ),
        *warnings(report),
        *(_statement(report, setting) for setting in settings),
    )


def _devices(rows: Sequence[Row]) -> str:
    return ", ".join(dict.fromkeys(row.info.device for row in rows if row.info))


def warnings(report: Report) -> list[Html]:
    """A banner for each thing for which the figures must not be quoted as they are."""
    found = []
    if not report.complete:
        found.append(
            _banner(
                "Incomplete record",
                "the run was stopped before its end: rows may be missing or have fewer rounds.",
            )
        )
    if counted := _turns(report, True):
        text = "Do not quote the speeds of these rows: turns that count are marked."
        found.append(_banner("Marked turns", text, counted))
    for row in filter(is_marked, report.rows):
        text = _overlap(row, f"{row.name}{_where(report, row)}", len(report.images))
        found.append(_banner("Calibration overlap", text))
    if repeated := _turns(report, False):
        text = "Turns were marked and do not count."
        found.append(_banner("Rounds repeated", text, repeated, "note"))
    if failed := [row for row in report.rows if row.reason]:
        text = f"{len(failed)} of {len(report.rows)} rows did not run to their end."
        names = [f"{row.name}{_where(report, row)}" for row in failed]
        found.append(_banner("Rows without a result", text, names, "note"))
    return found


def _banner(title: str, text: str, rows: Sequence[str] = (), kind: str = "alert") -> Html:
    """A banner; more than a few rows are folded away under it."""
    sign = "⚠" if kind == "alert" else "ℹ"
    few = len(rows) <= FEW
    listed = f" {'; '.join(rows)}." if rows and few else None
    folded = tag("ul", *(tag("li", row) for row in rows))
    return tag(
        "div",
        tag("span", sign, class_="sign", aria_hidden="true"),
        tag(
            "div",
            tag("p", tag("strong", title, ": "), text, listed),
            None if few else details(f"{len(rows)} rows", folded),
        ),
        class_=f"banner {kind}",
        role="note",
    )


def _where(report: Report, row: Row) -> str:
    """The setting of a row, where there are several."""
    return f" at {row.setting}" if len(report.settings) > 1 else ""


def _turns(report: Report, counted: bool) -> list[str]:
    """Rows with marked turns, in words: ``onnxruntime-int8 (disturbed; host 2 of 10 turns)``."""
    found = []
    for row in report.rows:
        marks: dict[str, None] = {}
        scopes = []
        for timing in row.timings:
            if many := marked(timing, counted):
                turns = (turn for turn in timing.turns if turn.counted is counted)
                marks |= dict.fromkeys(mark for turn in turns for mark in turn.marks)
                scopes.append(f"{timing.scope} {many} of {len(timing.turns)}")
        if scopes:
            name = f"{row.name}{_where(report, row)}"
            found.append(f"{name} ({', '.join(marks)}; {', '.join(scopes)} turns)")
    return found


def _overlap(row: Row, name: str, images: int) -> str:
    overlap = row.accuracy.overlap if row.accuracy else ()
    if not overlap:
        return f"the images that calibrated {name} are unknown: it may be scored on them."
    return (
        f"{name} was calibrated on {len(overlap)} of the {images} images that it is scored on,"
        f" such as {overlap[0]}: its accuracy says little about new images."
    )


def _statement(report: Report, setting: Setting) -> Html:
    """What stands out in one setting: the fastest row, the most accurate, the Pareto front."""
    rows = [row for row in report.rows if row.setting == setting]
    scope = chart_scope(rows)
    speeds = {r: t.fps for r, row in enumerate(rows) if (t := row.timing(scope)) and t.fps}
    title = tag("h2", f"At {setting}") if len(report.settings) > 1 else None
    if not speeds:
        text = "No row of this setting has frames a second to compare."
        return tag("section", title, tag("p", text, class_="lead"), class_="statement")
    best = max(speeds, key=lambda index: speeds[index].value)
    fastest, fps = rows[best], speeds[best]
    cards = [
        _card(
            f"Fastest, scope {scope}",
            fastest.name,
            f"{rate(fps.value)} FPS",
            f"[{rate(fps.low)}, {rate(fps.high)}]",
            _against(fastest, scope),
        )
    ]
    # Of rows that are equally accurate, the fastest.
    ordered = sorted(range(len(rows)), key=lambda r: -speeds[r].value if r in speeds else 0.0)
    scored = [(a.score.miou, rows[r]) for r in ordered if (a := rows[r].accuracy) and a.score]
    if scored:
        miou, accurate = max(scored, key=lambda pair: pair[0].value)
        cards.append(
            _card(
                "Highest mIoU",
                accurate.name,
                f"{percent(miou.value)} %",
                f"[{percent(miou.low)}, {percent(miou.high)}]",
                _against(accurate, scope),
            )
        )
    if sized := [rows[r] for r in speeds if rows[r].footprint.artifact_bytes]:
        small = min(sized, key=lambda row: row.footprint.artifact_bytes)
        size = f"{small.footprint.artifact_bytes / 1e6:.2f} MB"
        cards.append(_card("Smallest file", small.name, size, "", _against(small, scope)))
    front = [point.name for point in front_of(scatter_points(rows))]
    line = f"No row beats these in both FPS and mIoU: {', '.join(front)}." if front else None
    return tag(
        "section",
        title,
        tag("div", *cards, class_="cards"),
        tag("p", line, " By point values; the intervals say which differences are real.")
        if line
        else None,
        class_="statement",
    )


def _card(title: str, name: str, figure: str, interval: str, more: str) -> Html:
    return tag(
        "div",
        tag("p", title, class_="card-title"),
        tag("p", name, class_="card-name"),
        tag("p", figure, tag("small", interval) if interval else None, class_="card-figure"),
        tag("p", more, class_="card-more") if more else None,
        class_="card",
    )


def _against(row: Row, scope: str) -> str:
    """Speed and accuracy of a row against the reference, and what its figures suffer from."""
    score, timing = row.accuracy.score if row.accuracy else None, row.timing(scope)
    parts = ["the reference of this setting"] if row.name == REFERENCE else []
    if timing and timing.speed_ratio:
        parts.append(f"{ratio(timing.speed_ratio)} the speed of PyTorch: {timing.verdict}")
    if score and score.miou_difference:
        parts.append(f"mIoU {points(score.miou_difference)} points to FP32")
    if timing and marked(timing, True):
        parts.append("▲ turns marked")
    if is_marked(row):
        parts.append(f"{CALIBRATION_MARK} calibration overlaps, or may overlap, the score")
    if row.reason:
        parts.append("did not come to its end")
    return "; ".join(parts)
