"""The record of a run: one structure, from which every table, page and comparison is made.

A record holds everything that its reports show, raw samples included, so that a report can be made
again, or made differently, on another machine. Shares are in 0…1 and units are in the names; None
stands for a value that was not measured. ``bench.record.file`` writes and reads it.
"""

from bench.record.report import (
    FORMAT,
    PAPER,
    REFERENCE,
    UNKNOWN,
    Accuracy,
    Footprint,
    Limit,
    Peaks,
    Picture,
    Report,
    Row,
    Score,
)
from bench.record.timing import Latency, Setting, Telemetry, Timing, Turn

__all__ = [
    "FORMAT",
    "PAPER",
    "REFERENCE",
    "UNKNOWN",
    "Accuracy",
    "Footprint",
    "Latency",
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
