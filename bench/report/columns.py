"""The columns of every table of a record: each as a value and as text.

Terminal, Markdown, CSV and HTML are made from ``COLUMNS``. A new column is one line of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.record import PAPER, REFERENCE, UNKNOWN, Report, Row, Setting, Subject, Timing, Turn
from bench.record import camera as of_camera
from bench.record.speed import to_reference
from bench.record.timing import CAMERA as CAMERA_SCOPE
from bench.record.timing import SEARCH, counted_turns
from bench.report import figures
from bench.report.figures import NONE, milliseconds, number, parts, percent
from bench.statistics import verdict
from dabnet.intervals import Interval
from dabnet.precision import PRECISIONS

SEEN_MARK = "†"
"""Beside the mIoU of a row that was trained or calibrated on images of its score, or may have been
calibrated on them."""
TIMING_MARK = "‡"
"""Beside the time of a row of which a counted turn was disturbed or throttled."""

BROKEN = "BROKEN"
"""Beside the name of a row whose masks are not those of the network."""

OF, SPEED, COST, MORE, LIMIT, CAMERA = "of", "speed", "cost", "more", "limit", "camera"
"""Tables: the subject (of ``SPEED``, where there are several); accuracy beside speed; what a row
costs; more (the page only); the machine's limit; frames that arrive."""

_COMPARED = ("miou_difference", "speed_ratio")
"""Attributes that compare a row with the reference, which lacks them."""
_OF_PAPER = ("FPS", "p50")
"""Headings of ``SPEED`` that hold in the scope ``paper``: its samples are means of 100 calls."""


def named_subjects(report: Report) -> bool:
    """Whether rows are told apart by their subject, too."""
    return len(report.subjects) > 1 or report.subjects[0].untrained


def rows_of(report: Report, setting: Setting) -> list[Row]:
    """The rows of one setting, in order."""
    return [row for row in report.rows if row.setting == setting]


def counted(timing: Timing | None) -> list[Turn]:
    """The turns that count; none of what was not timed."""
    return counted_turns(timing.turns) if timing else []


def marked(timing: Timing | None) -> int:
    """Number of counted turns with a mark."""
    return sum(1 for turn in counted(timing) if turn.marks)


def is_marked(row: Row) -> bool:
    """Whether it is scored, or may be scored, on images that trained or calibrated it."""
    accuracy = row.accuracy
    return accuracy is not None and (
        bool(accuracy.trained_on or accuracy.overlap) or accuracy.calibrated_on == UNKNOWN
    )


def is_broken(row: Row) -> bool:
    """Whether its masks differ from the reference's by more than its precision allows."""
    share, known = agreement(row), PRECISIONS.get(row.info.precision if row.info else "")
    return share is not None and known is not None and share < known.sound_agreement


def is_sound(report: Report, row: Row) -> bool:
    """Whether it may be shipped: neither broken nor of random weights."""
    return not is_broken(row) and not report.subject(row).untrained


def agreement(row: Row) -> float | None:
    """Mean share of pixels equal to the reference's; None where they were not compared."""
    shares = row.accuracy.agreement if row.accuracy else None
    return float(np.mean(shares)) if shares else None


def reasons(report: Report, setting: Setting) -> list[str]:
    """Why rows lack results: one line per reason."""
    said = []
    for row in (row for row in rows_of(report, setting) if row.reason):
        start = "failed" if row.info or row.reason.startswith("failed: ") else "not run"
        said.append((row.name, f"{start}: {row.reason.removeprefix('failed: ')}"))
    return figures.grouped(said)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table: a row in one of its scopes, or with None a row that was not timed."""

    row: Row
    subject: Subject
    timing: Timing | None = None
    is_base: bool = False  # whether the speed of others is compared with it
    group: str = ""  # the machine, in a table of several records

    @property
    def is_paper(self) -> bool:
        """Whether the time follows the protocol of the paper, which other rows do not."""
        return self.timing is not None and self.timing.scope == PAPER

    @property
    def name(self) -> str:
        """Backend and variant, with the scope unless it is ``host``, and whether it is broken."""
        scope = self.timing.scope if self.timing else "host"
        mark = f" {BROKEN}" if is_broken(self.row) else ""
        return self.row.on + mark + ("" if scope == "host" else f" ({scope})")

    @property
    def model(self) -> str:
        """Label of the subject, and whether its weights are random."""
        return f"{self.subject.label}{' (untrained)' if self.subject.untrained else ''}"

    @property
    def multiply_adds(self) -> int | None:
        """Of the subject's network, per frame."""
        return self.subject.multiply_adds.get("{}x{}".format(*self.row.setting.size))

    @property
    def device(self) -> Timing | None:
        """The scope ``device`` of the row, whatever that of the line is."""
        return self.row.timing("device")

    @property
    def events(self) -> Timing | None:
        """The same by the clock of the GPU; None of a row on a CPU."""
        return self.row.timing("events")

    def turns(self, scope: str) -> tuple[Turn, ...]:
        """Of a scope of the row, whatever that of the line is."""
        return next((t.turns for t in self.row.timings if t.scope == scope), ())

    def at(self, path: str) -> Any:
        """The attribute at the end of ``path``; None where one on the way is None."""
        found: Any = self
        for name in path.split("."):
            found = None if found is None else getattr(found, name)
        return found


Value = Callable[[Line], Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        key: its name in the CSV, which has base units; "" for a column of tables alone.
        heading, unit: of tables; "" for a column of the CSV alone.
        value: of a line: a function, or the path of an attribute. Shares are in 0…1, times in
            seconds; None is what the record does not hold. An interval is three columns of the CSV.
        text: of a value; ``str`` makes a column of words, set to the left.
        table: the table that shows it.
        brief: whether terminal and Markdown leave out the interval, which the page shows.
        mark: beside the text where it holds of the line: ``SEEN_MARK``, ``TIMING_MARK``.
        optional: whether ``SPEED`` leaves it out where no row has it.
    """

    key: str
    heading: str
    unit: str
    value: str | Value
    text: Callable[[Any], str] = str
    table: str = ""
    brief: bool = False
    mark: str = ""
    optional: bool = False

    @property
    def title(self) -> str:
        """The heading with its unit."""
        return f"{self.heading} {self.unit}".rstrip()

    def of(self, line: Line) -> Any:
        """The value of a line; None where the record has none."""
        return line.at(self.value) if isinstance(self.value, str) else self.value(line)

    def cell(self, line: Line, brief: bool = False) -> str:
        """The text of a line with its mark; a dash for what the record does not hold."""
        if line.is_paper and self.table == SPEED and self.heading not in _OF_PAPER:
            return NONE
        value = self.of(line)
        if value is not None:
            holds = {SEEN_MARK: is_marked(line.row), TIMING_MARK: marked(line.timing)}
            text = parts(self.text(value))[0] if brief and self.brief else self.text(value)
            return f"{text} {self.mark}" if holds.get(self.mark) else text
        of, _, name = self.value.rpartition(".") if isinstance(self.value, str) else ("", "", "")
        is_base = line.is_base if name == "speed_ratio" else line.row.on == REFERENCE
        return "reference" if name in _COMPARED and is_base and line.at(of) is not None else NONE


def _agreement_text(share: float) -> str:
    """100.000 only where no pixel differs."""
    return percent(share if share == 1 else min(share, 0.99999), 3)


def _category(line: Line) -> float | None:
    known = [iou for iou in (line.at("row.score.category_iou") or ()) if iou is not None]
    return sum(known) / len(known) if known else None


def _seconds(name: str, scope: str = "timing") -> Value:
    """A latency in seconds, by default of the line's own timing."""
    path = f"{scope}.latency.{name}_ms"
    return lambda line: None if (found := line.at(path)) is None else found / 1000


def _turns(count: Callable[[Timing], int]) -> Value:
    return lambda line: count(line.timing) if line.timing else None


def _energy_per_frame_j(line: Line) -> float | None:
    """Energy of the GPU over the frames of the counted turns; None unless known of each turn."""
    turns = counted(line.timing)
    known = [j for turn in turns if (j := turn.telemetry.gpu_energy_j) is not None]
    frames = line.row.setting.batch * sum(len(turn.samples_ns) for turn in turns)
    return sum(known) / frames if frames and len(known) == len(turns) else None


def _of_camera(
    figure: Callable[..., Interval | None], *arguments: Any, scope: str = CAMERA_SCOPE
) -> Value:
    """A figure of frames that arrive; see ``bench.record.camera``."""
    return lambda line: figure(line.turns(scope), *arguments)


def _or(value: Value, lack: str) -> Value:
    """A figure, or ``lack`` where the frames of the row do not give it."""
    return lambda line: value(line) or (lack if line.turns(CAMERA_SCOPE) else None)


def _arrival_column(percent: float) -> Column:
    value = _or(_of_camera(of_camera.arrival_to_mask, percent), "too few frames")
    return Column("", f"p{percent:g}", "ms [95 %]", value, _amounts(1000), CAMERA)


def _amounts(unit: float) -> Callable[[Any], str]:
    return lambda v: v if isinstance(v, str) else figures.amounts(v, unit)


def _clock(line: Line) -> str | None:
    """Mean clock of the counted turns: of the GPU where one computed, else of the cores."""
    telemetry = [turn.telemetry for turn in counted(line.timing)]
    gpu = [t.gpu_mhz for t in telemetry if t.gpu_mhz is not None]
    cpu = [t.cpu_mhz for t in telemetry if t.cpu_mhz is not None]
    if gpu and not (line.row.info and line.row.info.device.startswith("cpu")):
        return f"GPU {number(float(np.mean(gpu)), 2, 1e-3)}"
    return f"CPU {number(float(np.mean(cpu)), 2, 1e-3)}" if cpu else None


def _file_bytes(line: Line) -> int | None:
    return line.row.footprint.artifact_bytes or None


def _ms(seconds: float) -> str:
    return milliseconds(1000 * seconds)


def _kept_text(found: Interval | str) -> str:
    return found if isinstance(found, str) else figures.rates(found)


def _number(decimals: int = 2, scale: float = 1.0) -> Callable[[float], str]:
    return lambda value: number(value, decimals, scale)


def _speed(ratio: Interval) -> str:
    return f"{figures.ratio(ratio)} {verdict(ratio)}"


def _csv(key: str, value: str | Value) -> Column:
    """A column of the CSV alone."""
    return Column(key, "", "", value)


_MB, _DIFFERENCE = _number(0, 1e-6), "row.score.miou_difference"
_NATIVE, _COST = "row.accuracy.native_score", "row.footprint"

_ARRIVAL_PERCENTS = (50.0, 99.0, 99.9)
_MISSED = _of_camera(of_camera.missed)
_KEPT = _of_camera(of_camera.kept_fps, scope=SEARCH)
_CPU_ENERGY, _GPU_ENERGY = (
    _of_camera(of_camera.energy_per_mask, f"{what}_energy_j") for what in ("cpu", "gpu")
)

MODEL = Column("", "model", "", "model")
"""The first column of every table of several subjects."""
NAME = Column("", "artifact", "", "name")
"""The first column of every table, or the second."""
COLUMNS: tuple[Column, ...] = (
    _csv("name", "row.name"),
    _csv("model", "subject.label"),
    _csv("untrained", "subject.untrained"),
    _csv("height", lambda line: line.row.setting.size[0]),
    _csv("width", lambda line: line.row.setting.size[1]),
    _csv("batch", "row.setting.batch"),
    _csv("streams", "row.setting.streams"),
    _csv("reason", "row.reason"),
    _csv("backend", "row.info.backend"),
    _csv("version", "row.info.version"),
    _csv("device", "row.info.device"),
    _csv("precision", "row.info.precision"),
    _csv("head", "row.info.head"),
    _csv("artifact", "row.artifact"),
    _csv("scope", lambda line: line.timing.scope if line.timing else ""),
    # The subject.
    Column("parameters", "params", "M", "subject.parameters", _number(2, 1e-6), OF),
    Column("multiply_adds", "MACs", "G", "multiply_adds", _number(2, 1e-9), OF),
    # Accuracy.
    Column("miou", "mIoU", "%", "row.score.miou", figures.shares, SPEED, True, SEEN_MARK),
    Column("miou_difference", "Δ to FP32", "points [95 %]", _DIFFERENCE, figures.points, SPEED),
    Column("agreement", "agrees", "%", lambda line: agreement(line.row), _agreement_text, SPEED),
    Column("", "category IoU", "%", _category, percent, MORE),
    Column("pixel_accuracy", "pixels right", "%", "row.score.pixel_accuracy", percent, MORE),
    Column("native_miou", "mIoU at labels' size", "%", f"{_NATIVE}.miou", figures.shares, MORE),
    _csv("native_miou_difference", f"{_NATIVE}.miou_difference"),
    _csv("native_pixel_accuracy", f"{_NATIVE}.pixel_accuracy"),
    _csv("broken", lambda line: is_broken(line.row)),
    _csv("arithmetic", "row.accuracy.arithmetic"),
    _csv("timed_agreement", "row.accuracy.timed_agreement"),
    _csv("timed_miou", "row.accuracy.timed_miou"),
    _csv("trained_on", "row.accuracy.trained_on"),
    _csv("calibrated_on", "row.accuracy.calibrated_on"),
    _csv("overlap", lambda line: len(line.row.accuracy.overlap) if line.row.accuracy else None),
    # Speed, in the scope of the line.
    Column("fps", "FPS", "[95 %]", "timing.fps", figures.rates, SPEED),
    _csv("calls", "timing.latency.calls"),
    _csv("min_s", _seconds("min")),
    Column("p50_s", "p50", "ms", _seconds("p50"), _ms, SPEED, mark=TIMING_MARK),
    _csv("p90_s", _seconds("p90")),
    Column("p95_s", "p95", "ms", _seconds("p95"), _ms, SPEED),
    Column("p99_s", "p99", "ms", _seconds("p99"), _ms, SPEED),
    _csv("iqr_s", _seconds("iqr")),
    Column("", "device p50", "ms", _seconds("p50", "device"), _ms, SPEED),
    Column("", "events p50", "ms", _seconds("p50", "events"), _ms, SPEED, optional=True),
    Column("speed_ratio", "speed to PyTorch", "[95 %]", "timing.speed_ratio", _speed, SPEED),
    Column("", "device speed to PyTorch", "[95 %]", "device.speed_ratio", _speed, MORE),
    _csv("verdict", lambda line: verdict(r) if (r := line.at("timing.speed_ratio")) else ""),
    _csv("rounds_needed", lambda line: to_reference(line.timing).needed if line.timing else None),
    _csv("rounds", _turns(lambda timing: len(counted(timing)))),
    _csv("rounds_repeated", _turns(lambda timing: len(timing.turns) - len(counted(timing)))),
    _csv("rounds_marked", _turns(marked)),
    Column("limit_share", "% of limit", "", "row.limit.share", _number(0, 100), SPEED),
    # Cost.
    Column("artifact_bytes", "file", "MB", _file_bytes, _number(2, 1e-6), COST),
    Column("load_s", "load", "s", f"{_COST}.load_s", _number(), COST),
    Column("first_inference_s", "first call", "s", f"{_COST}.first_inference_s", _number(3), COST),
    Column("host_peak_bytes", "host peak", "MB", f"{_COST}.host_peak_bytes", _MB, COST),
    Column("device_peak_bytes", "device peak", "MB", f"{_COST}.device_peak_bytes", _MB, COST),
    Column("energy_per_frame_j", "energy", "mJ/frame", _energy_per_frame_j, _number(1, 1e3), COST),
    Column("", "clock", "GHz", _clock, "{}".format, COST),
    # Frames that arrive.
    Column("missed", "missed", "% [95 %]", _MISSED, figures.shares, CAMERA, mark=TIMING_MARK),
    Column("dropped", "dropped", "% [95 %]", _of_camera(of_camera.dropped), figures.shares, CAMERA),
    *(
        _csv(f"arrival_p{percent:g}_s", _of_camera(of_camera.arrival_to_mask, percent))
        for percent in _ARRIVAL_PERCENTS
    ),
    *map(_arrival_column, _ARRIVAL_PERCENTS),
    _csv("kept_fps", _KEPT),
    Column("", "keeps", "FPS [95 %]", _or(_KEPT, "too few rounds"), _kept_text, CAMERA),
    Column("cpu_energy_per_mask_j", "CPU", "mJ/mask [95 %]", _CPU_ENERGY, _amounts(1e3), CAMERA),
    Column("gpu_energy_per_mask_j", "GPU", "mJ/mask [95 %]", _GPU_ENERGY, _amounts(1e3), CAMERA),
    # The limit of the machine.
    Column("limit_s", "limit", "ms", "row.limit.seconds", _ms, LIMIT),
    Column("", "arithmetic alone", "ms", "row.limit.arithmetic_s", _ms, LIMIT),
    Column("", "traffic alone", "ms", "row.limit.traffic_s", _ms, LIMIT),
    Column("", "work", "G multiply-adds", "row.limit.multiply_adds", _number(2, 1e-9), LIMIT),
    Column("", "traffic", "MB", "row.limit.traffic_bytes", _MB, LIMIT),
    Column("", "kernels", "", "row.limit.kernels", _number(0), LIMIT),
)


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of text.

    Attributes:
        headings: of the columns.
        lines: cells, as many in each line as there are headings.
        left: headings of the columns that hold words; the others hold figures.
        rows: what each line is of, for a table of ``COLUMNS``.
        of: label of the subject of all columns, where the record has several.
    """

    title: str
    headings: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    left: tuple[str, ...]
    rows: tuple[Line, ...] = ()
    of: str = ""

    @property
    def groups(self) -> tuple[str, ...]:
        """What each line belongs to; () of a table of one record."""
        found = tuple(line.group for line in self.rows)
        return found if any(found) else ()


def table(report: Report, setting: Setting, *names: str, brief: bool = True) -> Grid:
    """The rows of one setting that ran, with the columns of the tables of those names."""
    title = str(setting) if SPEED in names else f"{names[0]}: {setting}"
    lines = lines_of(report, setting, SPEED in names)
    return grid(title, lines, *names, several=named_subjects(report), brief=brief)


def lines_of(report: Report, setting: Setting, paper: bool, group: str = "") -> list[Line]:
    """The rows of one setting that ran.

    Args:
        paper: whether the scope ``paper`` of a row that has others too is a line more.
        group: of every line.
    """
    lines, base = [], report.reference(setting)
    for row in rows_of(report, setting):
        usual, published = row.timing("host") or row.timing("device"), row.timing(PAPER)
        if usual or published or row.accuracy or not row.reason:
            timing = usual or published
            lines.append(Line(row, report.subject(row), timing, row is base, group))
        if usual and published and paper:
            lines.append(Line(row, report.subject(row), published, group=group))
    return lines


def grid(title: str, lines: Sequence[Line], *names: str, several: bool, brief: bool) -> Grid:
    """The lines with the columns of the tables of those names.

    With several subjects each line begins with its own, and ``SPEED`` has the columns of ``OF``.
    ``SPEED`` has all its columns but the optional ones. Other tables leave out columns and rows of
    which the record holds nothing. Columns that are ``brief`` show their intervals if ``brief`` is
    False.
    """
    wanted = (*names, OF) if several and SPEED in names else names
    columns = [column for column in COLUMNS if column.table in wanted]
    if SPEED not in names:
        lines = [line for line in lines if any(c.cell(line) != NONE for c in columns)]
        columns = [c for c in columns if any(c.cell(line) != NONE for line in lines)]
    else:
        columns = [c for c in columns if not c.optional or any(map(c.of, lines))]
    columns = [*([MODEL] if several else []), NAME, *columns]
    return Grid(
        title,
        headings=tuple(column.title for column in columns),
        lines=tuple(tuple(column.cell(line, brief) for column in columns) for line in lines),
        left=tuple(column.title for column in columns if column.text is str),
        rows=tuple(lines),
    )
