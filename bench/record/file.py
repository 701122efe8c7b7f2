"""Records as JSON files: one line per turn, and no contradictions within."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bench.record import FORMAT, Report, Row, Score
from bench.record.timing import counted_turns
from dabnet.records import Codec

CODEC = Codec(
    Report,
    "record",
    "dabnet-bench",
    "measure again with: dabnet-bench CHECKPOINT",
    version=("format", FORMAT),
    one_line_each=("subjects", "turns", "layers", "pictures", "hits", "unions"),
)
record_text = CODEC.dump
write_record = CODEC.write
_SHORTEST_S, _LONGEST_S = 1e-9, 1e9


def read_record(path: Path) -> Report:
    """Read what ``write_record`` wrote.

    Raises:
        InputError: there is no such file, or it is damaged, foreign, or of another format.
    """
    report = CODEC.read(path)
    if fault := next(_contradictions(report), ""):
        CODEC.refuse(repr(str(path)), fault)
    return report


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


def _row_contradictions(row: Row, report: Report) -> Iterator[str]:
    if min(*row.setting.size, row.setting.batch, row.setting.streams) < 1:
        yield "a side, batch or number of streams below 1"
    scopes = Counter(timing.scope for timing in row.timings)
    yield from (f"{count} timings of scope {s!r}" for s, count in scopes.items() if count > 1)
    for timing in row.timings:
        for turn in timing.turns:
            if not _SHORTEST_S <= turn.wall_s <= _LONGEST_S or min(turn.samples_ns, default=0) < 1:
                yield f"round {turn.round} of scope {timing.scope!r} has a time that no clock gives"
        calls = sum(len(turn.samples_ns) for turn in counted_turns(timing.turns))
        if timing.latency and timing.latency.calls != calls:
            yield f"scope {timing.scope!r} sums up {timing.latency.calls} calls of {calls}"
    accuracy = row.accuracy
    for score in (accuracy.score, accuracy.native_score) if accuracy else ():
        if score is not None:
            yield from _score_contradictions(score, report)
    if accuracy and accuracy.agreement and len(accuracy.agreement) != len(report.images):
        yield f"agreement on {len(accuracy.agreement)} of {len(report.images)} images"


def _score_contradictions(score: Score, report: Report) -> Iterator[str]:
    images, classes = len(report.images), len(report.classes)
    if len(score.class_iou) != classes:
        yield f"IoU of {len(score.class_iou)} classes of {classes}"
    if len(score.category_iou) != len(report.categories):
        yield f"IoU of {len(score.category_iou)} categories of {len(report.categories)}"
    for name, counts in (("hits", score.hits), ("unions", score.unions)):
        if len(counts) != images or any(len(image) != classes for image in counts):
            yield f"{name} that are not of {images} images and {classes} classes"
