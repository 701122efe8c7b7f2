"""The record of a run: one structure, from which every table, page and comparison is made.

A record says everything that its reports show, raw samples included, so that a report can be made
again, or made differently, on another machine. Shares are in 0…1 and units are in the names; None
is what was not or could not be measured. ``bench.record.file`` writes and reads it.
"""

from bench.record.report import (
    FORMAT,
    REFERENCE,
    Accuracy,
    Footprint,
    Limit,
    Peaks,
    Picture,
    Report,
    Row,
    Score,
)
from bench.record.timing import Setting, Telemetry, Timing, Turn

__all__ = [
    "FORMAT",
    "REFERENCE",
    "Accuracy",
    "Footprint",
    "Limit",
    "Peaks",
    "Picture",
    "Report",
    "Row",
    "Score",
    "Setting",
    "Telemetry",
    "Timing",
    "Turn",
]
