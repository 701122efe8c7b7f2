"""Records as JSON files: one line a turn, strict in both directions.

A file is written whole or not at all, and read only if it is exactly what ``Report`` says: a record
that is misread gives a wrong table, and a wrong table is worse than none.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.record import FORMAT, Report, Row, Score
from dabnet.errors import InputError
from dabnet.files import existing_file, write_text
from dabnet.records import converter, faults

RECORD = "a record that dabnet-bench wrote (bench.json)"
_MEASURE = "measure again with: dabnet-bench CHECKPOINT"
_SHORT = 96
_SHORTEST_S, _LONGEST_S = 1e-9, 1e9
_ONE_LINE_EACH = ("turns", "layers", "pictures", "hits", "unions")


def write_record(report: Report, path: Path) -> None:
    """Write ``report`` to ``path``, atomically.

    Raises:
        ValueError: a number of it is not finite, which JSON cannot say and no measurement gives.
        InputError: the file cannot be written.
    """
    write_text(path, record_text(report))


def record_text(report: Report) -> str:
    """Return the record as JSON, ended by a newline."""
    return _json(converter().unstructure(report)) + "\n"


def read_record(path: Path) -> Report:
    """Read what ``write_record`` wrote.

    Raises:
        InputError: there is no such file, it is damaged, foreign, or of another format.
    """
    path = existing_file(path, RECORD)
    raw = _parsed(path)
    if not isinstance(raw, dict):
        raise InputError(f"{str(path)!r} holds no JSON object", RECORD, _MEASURE)
    _check_format(raw, path)
    from cattrs.errors import BaseValidationError

    try:
        report: Report = converter().structure(raw, Report)
    except BaseValidationError as error:
        raise _damaged(path, faults(error)) from error
    if found := list(_contradictions(report)):
        raise _damaged(path, found)
    return report


def _damaged(path: Path, faults: list[str]) -> InputError:
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return InputError(f"{str(path)!r} is a damaged record: {faults[0]}{more}", RECORD, _MEASURE)


def _parsed(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text, parse_constant=_not_finite, parse_float=_finite)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read ({error.strerror})", RECORD) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is not JSON ({error})", RECORD, _MEASURE) from error


def _not_finite(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _not_finite(text)


def _check_format(raw: dict[str, Any], path: Path) -> None:
    found = raw.get("format")
    if found == FORMAT and not isinstance(found, bool):
        return
    if not isinstance(found, int) or isinstance(found, bool) or not {"rows", "model"} <= raw.keys():
        raise InputError(f"{str(path)!r} is JSON, but no record", RECORD, _MEASURE)
    fix = _MEASURE if found < FORMAT else "install the dabnet-toolkit that wrote it, or a later one"
    raise InputError(f"{str(path)!r} is a record of format {found}", f"format {FORMAT}", fix)


# --- sense ------------------------------------------------------------------------------------


def _contradictions(report: Report) -> Iterator[str]:
    """What no run writes, and on which a table or a comparison would stumble."""
    names = Counter((row.name, row.setting) for row in report.rows)
    for (name, setting), count in names.items():
        if count > 1:
            yield f"{count} rows {name!r} at {setting}"
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
        calls = sum(len(turn.samples_ns) for turn in timing.turns if turn.counted)
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


# --- text -------------------------------------------------------------------------------------


def _json(value: Any, indent: str = "", one_line_each: bool = False) -> str:
    """JSON in which short values, lists of scalars and each item of the long lists are a line."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not isinstance(value, (dict, list, tuple)) or not value or len(line) <= _SHORT:
        return line
    inner = indent + " "
    if isinstance(value, dict):
        items = [
            f"{json.dumps(key, ensure_ascii=False)}: "
            + _json(item, inner, one_line_each=key in _ONE_LINE_EACH)
            for key, item in value.items()
        ]
        return "{\n" + ",\n".join(inner + item for item in items) + f"\n{indent}}}"
    if not one_line_each and not any(isinstance(item, (dict, list, tuple)) for item in value):
        return line
    lines = [
        json.dumps(item, ensure_ascii=False, allow_nan=False)
        if one_line_each
        else _json(item, inner)
        for item in value
    ]
    return "[\n" + ",\n".join(inner + item for item in lines) + f"\n{indent}]"
