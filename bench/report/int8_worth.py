"""Whether INT8 buys time on the backend that was measured, and what to ship where it does not."""

from __future__ import annotations

from bench.record import Report, Row, Timing
from bench.statistics import speed_ratio, verdict
from dabnet.runtime.runner import SCOPES


def int8_worth(report: Report) -> list[str]:
    """A line for each INT8 row that is not faster than the fastest float row of its backend.

    Rows of one setting are compared, in the scope ``host`` where both have it. A row without
    rounds to compare has no line.
    """
    lines = []
    for setting in report.settings:
        where = f"at {setting}" if len(report.settings) > 1 else "here"
        rows = {row.name: row for row in report.rows if row.setting == setting}
        for name, row in rows.items():
            backend, _, precision = name.rpartition("-")
            if precision != "int8":
                continue
            floats = [rows[f"{backend}-{p}"] for p in ("fp16", "fp32") if f"{backend}-{p}" in rows]
            line = next(filter(None, (_line(row, floats, scope, where) for scope in SCOPES)), "")
            if line != _FASTER and line:
                lines.append(line)
    return lines


_FASTER = "faster"


def _line(row: Row, floats: list[Row], scope: str, where: str) -> str:
    """What to say of ``row`` in this scope, ``_FASTER``, or "" where it cannot be told."""
    timed = row.timing(scope)
    others = {other.name: timing for other in floats if (timing := other.timing(scope))}
    if timed is None or not others:
        return ""
    best = min(others, key=lambda name: _median_ms(others[name]))
    ratio = speed_ratio(others[best].turns, timed.turns)
    if ratio is None:
        return ""
    if verdict(ratio) == "faster":
        return _FASTER
    return (
        f"{row.name} is not faster than {best} {where} ({ratio.value:.2f}"
        f" [{ratio.low:.2f}, {ratio.high:.2f}] times its speed): ship {best}."
    )


def _median_ms(timing: Timing) -> float:
    return timing.latency.p50_ms if timing.latency else float("inf")
