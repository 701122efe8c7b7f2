"""Sections of the page below the charts: limit, layers, pictures, machine, what figures mean."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.page.markup import Html, details, headings, join, table, tag
from bench.page.sections import Section, Styles, by_setting, section
from bench.page.svg import named
from bench.record import Limit, Picture, Report, Row
from bench.report.figures import NONE, latency, megabytes, milliseconds, number, percent

LAYERS = 10
"""How many of a row's layers are shown."""

FEW = 4
"""Of up to how many rows the layers are unfolded."""

_TYPES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif"}


def limit_section(report: Report, styles: Styles) -> Section | None:
    """How far each row is from what the machine could do."""

    def draw(rows: Sequence[Row]) -> Html | None:
        limited = [(row, row.limit) for row in rows if row.limit]
        if not limited:
            return None
        body = [_limit(row, limit, styles) for row, limit in limited]
        names = (
            "artifact",
            "limit ms",
            "arithmetic alone ms",
            "traffic alone ms",
            "G multiply-adds",
            "traffic MB",
            "kernels",
            "p50 device ms",
            "of the limit %",
        )
        return table(headings(names), body, f"Limit of a call, {rows[0].setting}", "limits")

    note = (
        "Limit: sum over kernels of the longer of arithmetic and memory traffic, at the peaks of"
        " the machine. Share: limit over the median of the device scope; 100 % cannot be passed"
        " by a graph that does the same work."
    )
    drawn = by_setting(report, draw)
    if not drawn and not report.peaks:
        return None
    text = tag("p", note, class_="note") if drawn else None
    return section("limit", "The limit of this machine", drawn, text, _peaks(report))


def _limit(row: Row, limit: Limit, styles: Styles) -> Html:
    found = latency(row, "device")
    share = tag("td", percent(limit.share, 1), _bar(limit.share))
    figures = (
        milliseconds(1e3 * limit.seconds),
        milliseconds(1e3 * limit.arithmetic_s),
        milliseconds(1e3 * limit.traffic_s),
        number(limit.multiply_adds, 2, 1e-9),
        megabytes(limit.traffic_bytes),
        str(limit.kernels),
        milliseconds(found.p50_ms) if found else NONE,
    )
    name = tag("th", named(row.name, styles[row.name]), scope="row", class_="name")
    return tag("tr", name, *(tag("td", text) for text in figures), share)


def _bar(share: float | None) -> Html | None:
    """A share as a bar; it repeats what stands beside it."""
    if share is None:
        return None
    fill = tag("span", class_="fill", style=f"width:{100 * min(max(share, 0), 1):.1f}%")
    return tag("span", fill, class_="track", aria_hidden="true")


def _peaks(report: Report) -> Html | None:
    peaks = report.peaks
    if peaks is None:
        return None
    types = ", ".join(
        f"{name} {number(rate, 1, 1e-9)} G multiply-adds/s"
        for name, rate in peaks.multiply_adds_per_s.items()
    )
    text = f"{peaks.device}: memory {number(peaks.bytes_per_s, 1, 1e-9)} GB/s; {types}"
    return tag(
        "p", tag("strong", "Peaks, measured: "), f"{text} ({peaks.measured}).", class_="peaks"
    )


def layers_section(report: Report, styles: Styles) -> Section | None:
    """The longest layers of each row; of many rows they are folded away."""
    few = sum(1 for row in report.rows if row.layers) <= FEW

    def draw(rows: Sequence[Row]) -> Html | None:
        cards = [_layers(row, styles, few) for row in rows if row.layers]
        return tag("div", *cards, class_="panels widest") if cards else None

    drawn = by_setting(report, draw)
    if not drawn:
        return None
    note = "From the profiler of each backend, which slows calls down: for comparing layers only."
    return section("layers", "Longest layers", tag("p", note, class_="note"), drawn)


def _layers(row: Row, styles: Styles, open_: bool) -> Html:
    shown, rest = row.layers[:LAYERS], row.layers[LAYERS:]
    body = [
        tag(
            "tr",
            tag("th", layer.name, scope="row", class_="layer"),
            tag("td", layer.kind, class_="text"),
            tag("td", milliseconds(1e3 * layer.seconds)),
            tag("td", percent(layer.share, 1), _bar(layer.share)),
        )
        for layer in shown
    ]
    if rest:
        time, share = sum(layer.seconds for layer in rest), sum(layer.share for layer in rest)
        others = tag("th", f"{len(rest)} others", scope="row", class_="layer")
        figures = (tag("td", milliseconds(1e3 * time)), tag("td", percent(share, 1), _bar(share)))
        body.append(tag("tr", others, tag("td", "", class_="text"), *figures, class_="rest"))
    head = headings(("layer", "kind", "ms a call", "share %"))
    return details(
        named(row.name, styles[row.name]),
        table(head, body, f"Longest layers of {row.name}", "layers"),
        open_=open_,
    )


def pictures_section(report: Report, folder: Path | None) -> Section | None:
    """The pictures, by image, inside the page."""
    images = dict.fromkeys(picture.image for picture in report.pictures)
    parts, missing = [], []
    for image in images:
        figures = []
        for picture in report.pictures:
            if picture.image != image:
                continue
            source = _data_url(picture, folder)
            if source is None:
                missing.append(f"{picture.file} ({image}, {picture.shows})")
                continue
            figure = tag("img", src=source, alt=f"{image}: {picture.shows}", loading="lazy")
            figures.append(tag("figure", figure, tag("figcaption", picture.shows)))
        if figures:
            parts.append(join(tag("h3", image), tag("div", *figures, class_="pictures")))
    lost = f"Pictures that are not beside the record: {', '.join(missing)}."
    return section(
        "pictures", "Pictures", *parts, tag("p", lost, class_="note warn") if missing else None
    )


def _data_url(picture: Picture, folder: Path | None) -> Html | None:
    """The picture as an URL that holds it; None where its file is not a picture in ``folder``."""
    kind = _TYPES.get(Path(picture.file).suffix.lower())
    if folder is None or kind is None:
        return None
    path = (folder / picture.file).resolve()
    if not path.is_relative_to(folder.resolve()):  # a record may come from anywhere
        return None
    try:
        return Html(f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}")
    except OSError:
        return None


def environment_section(report: Report) -> Section | None:
    """Machine, scenario and manifests."""
    harness = milliseconds(report.harness_ns / 1e6) if report.harness_ns is not None else NONE
    timer = {"what the timer adds to a call, ms": harness}
    record = {
        "started": report.started or NONE,
        "checkpoint SHA-256": report.checkpoint_sha256,
        "key": report.key or NONE,
        "record format": report.format,
        "complete": "yes" if report.complete else "no",
    }
    manifests = [
        details(f"{row.name}, {row.setting}", _json(row.manifest))
        for row in report.rows
        if row.manifest
    ]
    ran = {f"{r.name}, {r.setting}": _ran(r) for r in report.rows if r.info or r.artifact}
    return section(
        "environment",
        "Where and how it was measured",
        details("Machine and versions", _pairs(report.environment)),
        details("Scenario", _pairs(report.scenario | timer)),
        details("What ran", _pairs(ran)) if ran else None,
        details("Manifests of the artifacts", *manifests) if manifests else None,
        details("Images of the score", tag("p", ", ".join(report.images))),
        details("Record", _pairs(record)),
    )


def _ran(row: Row) -> str:
    info = row.info
    parts = [row.artifact] if row.artifact else []
    if info:
        parts += [f"{info.backend} {info.version}", info.device, info.precision]
        parts += ["x".join(map(str, info.shape)), *info.notes]
    return "; ".join(parts)


def _pairs(values: Mapping[str, Any]) -> Html:
    rows = (
        tag("div", tag("dt", str(name)), tag("dd", _value(value))) for name, value in values.items()
    )
    return tag("dl", *rows, class_="pairs")


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def _json(value: Mapping[str, Any]) -> Html:
    return tag("pre", json.dumps(value, indent=2, ensure_ascii=False, default=str), tabindex="0")
