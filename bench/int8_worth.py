"""Whether INT8 buys time on the backend that was measured, and what to ship where it does not."""

from __future__ import annotations

import numpy as np

from bench.record import Report, Row
from bench.statistics import speed_ratio, verdict


def int8_worth(report: Report) -> list[str]:
    """A line for each INT8 row that is not faster than the fastest float row of its backend."""
    rows = {row.name: row for row in report.rows if row.latency is not None}
    lines = []
    for name, row in rows.items():
        backend, _, precision = name.rpartition("-")
        floats = [rows[f"{backend}-{p}"] for p in ("fp16", "fp32") if f"{backend}-{p}" in rows]
        if precision != "int8" or not floats:
            continue
        best = min(floats, key=_median)
        ratio = speed_ratio(_rounds(best), _rounds(row))
        if verdict(ratio) != "faster":
            lines.append(
                f"{name} is not faster than {best.name} here ({ratio.value:.2f}"
                f" [{ratio.low:.2f}, {ratio.high:.2f}] times its speed):"
                f" ship {best.name}."
            )
    return lines


def _rounds(row: Row) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    return [np.array(turn, np.int64) for turn in row.rounds_ns]


def _median(row: Row) -> float:
    return float(np.median(np.concatenate(_rounds(row))))
