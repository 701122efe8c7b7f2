"""One record → one HTML page that needs nothing else: no network, no script, no font.

Styles and charts are inside the page and pictures are embedded, so that it can be mailed, archived
and opened years later. A policy in its head forbids the browser to load anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from bench.page.details import (
    environment_section,
    layers_section,
    limit_section,
    pictures_section,
)
from bench.page.head import head
from bench.page.markup import Html, join, tag
from bench.page.sections import (
    Section,
    classes_section,
    latency_section,
    rounds_section,
    scatter_section,
    section,
    table_section,
)
from bench.page.svg import styles
from bench.record import Report
from bench.report.footnotes import SCOPE_MEANINGS

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

MEANINGS = {
    **{f"scope {scope}": f"{meaning}." for scope, meaning in SCOPE_MEANINGS.items()},
    "FPS": "frames by time over all counted turns, so that slow calls count. Interval: Student's t"
    " on the logarithms of the rounds' rates; unknown with fewer than two rounds.",
    "p50, p95, p99": "percentiles of all calls of the counted turns; none is trimmed.",
    "speed to PyTorch": "each round that counted for both rows gives one ratio, of median latencies"
    " or, where calls overlap, of the time a call took from the whole turn; so what disturbs both"
    " alike cancels. Mean and interval: Student's t on their logarithms.",
    "verdict": "faster or slower where the whole interval is above or below 1, else"
    " indistinguishable.",
    "mIoU": "mean over the classes of intersection over union, summed over all images. Interval:"
    " bootstrap, 2000 resamples of the images.",
    "Δ to FP32": "mIoU less that of the reference; both are resampled with the same images, so the"
    " interval is that of a paired bootstrap.",
    "agrees with FP32": "mean over images of the share of pixels that the reference says, too.",
    "of the limit": "least time of the graph's own work at the measured peaks, by the median of the"
    " device scope.",
    "GPU mJ a frame": "energy that the GPU reported over the counted turns of scope host, by their"
    " frames.",
    "disturbed, throttled": "what may have slowed a turn down. Its round is repeated and does not"
    " count; a mark on a counted turn means that repeating did not help.",
}


def html_page(report: Report, folder: Path | None = None) -> str:
    """Return the page of a record.

    Args:
        folder: where the files of ``report.pictures`` lie. What is not there is named in the page
            and left out.
    """
    look = styles(report)
    parts = (
        table_section(report, look),
        scatter_section(report, look),
        latency_section(report, look),
        classes_section(report, look),
        rounds_section(report),
        limit_section(report, look),
        layers_section(report, look),
        pictures_section(report, folder),
        environment_section(report),
        _meanings(),
    )
    sections = [part for part in parts if part]
    main = tag("main", *(part.html() for part in sections))
    title = f"{report.model}, {report.dataset} {report.split}".strip()
    sheet = Html(files("bench.page").joinpath("page.css").read_text("utf-8"))
    page = tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", f"dabnet-bench: {title}"),
            tag("style", sheet),
        ),
        tag("body", head(report), _contents(sections), main),
        lang="en",
    )
    return join(Html("<!DOCTYPE html>\n"), page, Html("\n"))


def _contents(sections: Sequence[Section]) -> Html:
    """Links to the sections."""
    links = (tag("a", part.title, href=f"#{part.id}") for part in sections)
    return tag("nav", *links, aria_label="Sections of this page")


def _meanings() -> Section | None:
    pairs = [tag("div", tag("dt", name), tag("dd", text)) for name, text in MEANINGS.items()]
    return section("meanings", "What the figures mean", tag("dl", *pairs, class_="pairs"))
