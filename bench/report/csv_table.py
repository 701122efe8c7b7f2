"""One record → CSV: a line for each row and scope, numbers in base units."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np

from bench.record import Report, Row, Score, Timing
from bench.report import figures
from dabnet.intervals import Interval


def csv_text(report: Report) -> str:
    """Return the record's summary as CSV.

    Shares are in 0…1, times in seconds, energy in joules; what was not measured is empty. A row
    without a timing has one line whose ``scope`` is empty.
    """
    lines = [
        _row(row) | (_timing(row, timing) if timing else {"scope": ""})
        for row in report.rows
        for timing in (row.timings or (None,))
    ]
    names = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _row(row: Row) -> dict[str, Any]:
    """What all scopes of a row share."""
    setting, footprint = row.setting, row.footprint
    flat: dict[str, Any] = {"name": row.name, "height": setting.size[0], "width": setting.size[1]}
    flat |= {"batch": setting.batch, "streams": setting.streams, "reason": row.reason}
    if row.info is not None:
        for name in ("backend", "version", "device", "precision"):
            flat[name] = getattr(row.info, name)
    flat["artifact"] = row.artifact
    if row.accuracy is not None:
        accuracy = row.accuracy
        flat |= _score("", accuracy.score) | _score("native_", accuracy.native_score)
        flat["agreement"] = float(np.mean(accuracy.agreement)) if accuracy.agreement else None
        for name in ("arithmetic", "timed_agreement", "timed_miou", "calibrated_on"):
            flat[name] = getattr(accuracy, name)
        flat["overlap"] = len(accuracy.overlap)
    for name in ("load_s", "first_inference_s", "host_peak_bytes", "device_peak_bytes"):
        flat[name] = getattr(footprint, name)
    flat["artifact_bytes"] = footprint.artifact_bytes or None
    if row.limit is not None:
        flat |= {"limit_s": row.limit.seconds, "limit_share": row.limit.share}
    return flat


def _score(prefix: str, score: Score | None) -> dict[str, Any]:
    if score is None:
        return {}
    return (
        _interval(f"{prefix}miou", score.miou)
        | _interval(f"{prefix}miou_difference", score.miou_difference)
        | {f"{prefix}pixel_accuracy": score.pixel_accuracy}
    )


def _timing(row: Row, timing: Timing) -> dict[str, Any]:
    flat: dict[str, Any] = {"scope": timing.scope}
    if timing.latency is not None:
        flat["calls"] = timing.latency.calls
        for name in ("min", "p50", "p90", "p95", "p99", "iqr"):
            flat[f"{name}_s"] = getattr(timing.latency, f"{name}_ms") / 1000
    flat |= _interval("fps", timing.fps) | _interval("speed_ratio", timing.speed_ratio)
    flat["verdict"] = timing.verdict
    flat["rounds"] = sum(turn.counted for turn in timing.turns)
    flat["rounds_repeated"] = sum(not turn.counted for turn in timing.turns)
    flat["rounds_marked"] = figures.marked(timing, counted=True)
    flat["energy_per_frame_j"] = figures.energy_per_frame_j(row, timing.scope)
    return flat


def _interval(name: str, interval: Interval | None) -> dict[str, Any]:
    if interval is None:
        return {}
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
