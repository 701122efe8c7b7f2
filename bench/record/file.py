"""Records as JSON files: one line per turn, and no contradictions within."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

from bench.record import FORMAT, Report, Row, Score, Timing
from bench.record.private import private
from bench.record.timing import counted_turns, latency
from dabnet.intervals import Interval
from dabnet.records import Codec

CODEC = Codec(
    Report,
    "record",
    "dabnet-bench",
    "measure again with: dabnet-bench CHECKPOINT",
    version=("format", FORMAT),
    one_line_each=("subjects", "turns", "layers", "pictures", "hits", "unions"),
)
_TOLERANCE = 1e-6
"""Relative: versions of numpy round percentiles in different ways."""
_LARGEST = 1e100  # the interval of two rounds may be wide


def record_text(report: Report) -> str:
    """The record as JSON, without what is private."""
    return CODEC.dump(private(report))


def write_record(report: Report, path: Path) -> None:
    """Write the record, without what is private, and all at once."""
    CODEC.write(private(report), path)


def read_record(path: Path) -> Report:
    """Read what ``write_record`` wrote; what an earlier version wrote is made private, too.

    Raises:
        InputError: there is no such file, or it is damaged, foreign, or of another format.
    """
    report = CODEC.read(path)
    if fault := next(_contradictions(report), ""):
        CODEC.refuse(repr(str(path)), fault)
    return private(report)


def _contradictions(report: Report) -> Iterator[str]:
    """What no run writes, and what would break a table or a comparison."""
    names = Counter((row.name, row.setting) for row in report.rows)
    for (name, setting), count in names.items():
        if count > 1:
            yield f"{count} rows {name!r} at {setting}"
    labels = Counter(subject.label for subject in report.subjects)
    if not labels or max(labels.values()) > 1:
        yield f"{len(report.subjects)} subjects of {len(labels)} labels"
    known = set(labels) if len(labels) > 1 else {""}
    yield from (f"{row.name} of {row.of!r}" for row in report.rows if row.of not in known)
    for row in report.rows:
        for fault in _row_contradictions(row, report):
            yield f"{row.name} at {row.setting}: {fault}"
    if len(report.palette) != len(report.classes):
        yield f"{len(report.palette)} colours of {len(report.classes)} classes"


def _row_contradictions(row: Row, report: Report) -> Iterator[str]:
    scopes = Counter(timing.scope for timing in row.timings)
    yield from (f"{count} timings of scope {s!r}" for s, count in scopes.items() if count > 1)
    for timing in row.timings:
        yield from (f"scope {timing.scope!r} {fault}" for fault in _timing_contradictions(timing))
    accuracy = row.accuracy
    for score in (accuracy.score, accuracy.native_score) if accuracy else ():
        if score is not None:
            yield from _score_contradictions(score, report)
    if accuracy and accuracy.agreement and len(accuracy.agreement) != len(report.images):
        yield f"agreement on {len(accuracy.agreement)} of {len(report.images)} images"


def _timing_contradictions(timing: Timing) -> Iterator[str]:
    """Figures that are not those of the samples, or that no time gives."""
    summary = timing.latency
    if summary is not None:
        calls = sum(len(turn.samples_ns) for turn in counted_turns(timing.turns))
        if summary.calls != calls:
            yield f"sums up {summary.calls} calls of {calls}"
            return
        found = latency(timing.turns)
        assert found is not None  # there are calls
        for key in ("min_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "iqr_ms"):
            told, measured = getattr(summary, key), getattr(found, key)
            if abs(told - measured) > _TOLERANCE * (found.p50_ms + measured):
                yield f"has {key} {told:g}, and its samples have {measured:g}"
    for name in ("fps", "speed_ratio"):
        interval = getattr(timing, name)
        if interval is not None and not _within(interval, 0, _LARGEST):
            yield f"has {name} {astuple(interval)}"


def _within(interval: Interval, low: float, high: float) -> bool:
    values = astuple(interval)
    return all(low <= value <= high for value in values) and interval.low <= interval.high


def _score_contradictions(score: Score, report: Report) -> Iterator[str]:
    images, classes = len(report.images), len(report.classes)
    if len(score.class_iou) != classes:
        yield f"IoU of {len(score.class_iou)} classes of {classes}"
    if len(score.category_iou) != len(report.categories):
        yield f"IoU of {len(score.category_iou)} categories of {len(report.categories)}"
    for name, counts in (("hits", score.hits), ("unions", score.unions)):
        if len(counts) != images or any(len(image) != classes for image in counts):
            yield f"{name} that are not of {images} images and {classes} classes"
            return
    pairs = zip(score.hits, score.unions, strict=True)
    if any(hit > union for image in pairs for hit, union in zip(*image, strict=True)):
        yield "more hits than the union of a class has pixels"
    if not _within(score.miou, 0, 1):
        yield f"a mean IoU of {astuple(score.miou)}"
    if score.miou_difference and not _within(score.miou_difference, -1, 1):
        yield f"a difference of mean IoU of {astuple(score.miou_difference)}"
