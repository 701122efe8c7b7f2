"""The record of a run: one structure, from which every table, page and comparison is made.

A record holds everything that its reports show, raw samples included, so that a report can be made
again, or made differently, on another machine. Shares are in 0…1 and units are in the names; None
stands for a value that was not measured. ``bench.record.file`` writes and reads it.
"""

from bench.record.report import FORMAT as FORMAT
from bench.record.report import PAPER as PAPER
from bench.record.report import REFERENCE as REFERENCE
from bench.record.report import UNKNOWN as UNKNOWN
from bench.record.report import Accuracy as Accuracy
from bench.record.report import Footprint as Footprint
from bench.record.report import Limit as Limit
from bench.record.report import Peaks as Peaks
from bench.record.report import Picture as Picture
from bench.record.report import Report as Report
from bench.record.report import Row as Row
from bench.record.report import Score as Score
from bench.record.timing import Latency as Latency
from bench.record.timing import Setting as Setting
from bench.record.timing import Telemetry as Telemetry
from bench.record.timing import Timing as Timing
from bench.record.timing import Turn as Turn
