"""One record → tables of text, which the terminal and Markdown then draw each in its own way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.overlap import UNKNOWN
from bench.record import REFERENCE, Report, Row, Score, Setting, Timing
from bench.report import figures
from bench.report.figures import NONE

CALIBRATION_MARK = "†"
"""Beside the mIoU of a row that was, or may have been, calibrated on the images of its score."""
TIMING_MARK = "‡"
"""Beside the time of a row of which a turn that counts was disturbed or throttled."""

LAYERS_SHOWN = 10
DIFFERENCE = "Δ to FP32 [95 %]"
SPEED = "speed to PyTorch [95 %]"
LIMIT = "% of limit"


@dataclass(frozen=True, slots=True)
class Grid:
    """A table.

    Attributes:
        headings: of the columns.
        lines: cells, as many in each line as there are headings.
        left: headings of the columns that hold words; the others hold figures.
    """

    title: str
    headings: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    left: tuple[str, ...] = ("artifact",)


def speed_grid(report: Report, setting: Setting) -> Grid:
    """Accuracy beside speed. One line a row and, where it was timed, one of the scope ``paper``."""
    lines = [
        (*_accuracy_cells(row), *_speed_cells(row, timing), _note(row))
        if number == 0
        else (_name(row, timing), *(NONE,) * 3, *_speed_cells(row, timing), "")
        for row in rows_of(report, setting)
        for number, timing in enumerate(shown_timings(row))
    ]
    headings = (
        *("artifact", "mIoU %", DIFFERENCE, "agrees %", "FPS [95 %]", "p50 ms", "p95 ms"),
        *("p99 ms", "device p50 ms", SPEED, LIMIT, "note"),
    )
    return Grid(str(setting), headings, tuple(lines), left=("artifact", "note"))


def rows_of(report: Report, setting: Setting) -> list[Row]:
    """The rows of one setting, in order."""
    return [row for row in report.rows if row.setting == setting]


def shown_timings(row: Row) -> list[Timing | None]:
    """What a row's lines show: scope ``host``, else ``device``, else None; then ``paper``."""
    first = row.timing("host") or row.timing("device")
    paper = row.timing("paper")
    return [first or paper, *([paper] if paper and first else [])]


def _name(row: Row, timing: Timing | None) -> str:
    """The row's name, with its scope where that is not ``host``."""
    return f"{row.name} ({timing.scope})" if timing and timing.scope != "host" else row.name


def failure(row: Row) -> str:
    """Why a row has no result, or not all of it; "" for a sound one."""
    if not row.reason or row.reason.startswith("failed: "):
        return row.reason
    return ("failed: " if row.info else "not run: ") + row.reason


def _note(row: Row) -> str:
    return failure(row) or (", ".join(row.info.notes) if row.info else "")


def _accuracy_cells(row: Row) -> tuple[str, ...]:
    name, accuracy = _name(row, shown_timings(row)[0]), row.accuracy
    if accuracy is None:
        return (name, *(NONE,) * 3)
    miou, difference, score = NONE, NONE, accuracy.score
    if score is not None:
        miou = figures.percent(score.miou.value)
        if is_marked(row):
            miou += f" {CALIBRATION_MARK}"
        if score.miou_difference is not None:
            difference = figures.points(score.miou_difference)
        elif row.name == REFERENCE:
            difference = "reference"
    return name, miou, difference, agreement_text(accuracy.agreement)


def is_marked(row: Row) -> bool:
    """Whether its score is, or may be, of images that calibrated it."""
    accuracy = row.accuracy
    return accuracy is not None and (bool(accuracy.overlap) or accuracy.calibrated_on == UNKNOWN)


def agreement_text(agreement: Sequence[float] | None) -> str:
    """Mean share of equal pixels in %; 100.000 only where no pixel differs."""
    if not agreement:
        return NONE
    share = float(np.mean(agreement))
    return figures.percent(share if share == 1 else min(share, 0.99999), 3)


def _speed_cells(row: Row, timing: Timing | None) -> tuple[str, ...]:
    """FPS, p50, p95, p99, p50 of the device scope, speed ratio, share of the limit."""
    if timing is None or timing.latency is None:
        return (NONE,) * 7
    time, device = timing.latency, figures.latency(row, "device")
    paper = timing.scope == "paper"
    share = row.limit.share if row.limit and not paper else None
    p50 = figures.milliseconds(time.p50_ms)
    return (
        fps_text(timing),
        f"{p50} {TIMING_MARK}" if figures.marked(timing, counted=True) else p50,
        # A sample of the scope paper is a mean of 100 calls, which has no tail.
        NONE if paper else figures.milliseconds(time.p95_ms),
        NONE if paper else figures.milliseconds(time.p99_ms),
        NONE if device is None or paper else figures.milliseconds(device.p50_ms),
        _ratio_text(row, timing),
        figures.percent(share, 0),
    )


def fps_text(timing: Timing) -> str:
    """Frames a second with the interval."""
    if timing.fps is None:
        return NONE
    low, high = figures.rate(timing.fps.low), figures.rate(timing.fps.high)
    return f"{figures.rate(timing.fps.value)} [{low}, {high}]"


def _ratio_text(row: Row, timing: Timing) -> str:
    if timing.scope == "paper":
        return NONE
    if timing.speed_ratio is None:
        return "reference" if row.name == REFERENCE else NONE
    return f"{figures.ratio(timing.speed_ratio)} {timing.verdict}"


# --- what a row costs -------------------------------------------------------------------------


def cost_grid(report: Report, setting: Setting) -> Grid | None:
    """Memory, start, energy and clock of the rows that ran; None where none did."""
    rows = [row for row in rows_of(report, setting) if row.info is not None]
    headings = (
        *("artifact", "file MB", "load s", "first call s", "host peak MB", "device peak MB"),
        *("energy mJ/frame", "clock GHz"),
    )
    lines = [
        (
            row.name,
            figures.megabytes(row.footprint.artifact_bytes or None, 2),
            figures.number(row.footprint.load_s),
            figures.number(row.footprint.first_inference_s, 3),
            figures.megabytes(row.footprint.host_peak_bytes),
            figures.megabytes(row.footprint.device_peak_bytes),
            _energy(row),
            _clock(row),
        )
        for row in rows
    ]
    return Grid(f"what it costs: {setting}", headings, tuple(lines)) if lines else None


def _energy(row: Row) -> str:
    timing = shown_timings(row)[0]
    joules = figures.energy_per_frame_j(row, timing.scope) if timing else None
    return figures.number(joules, 1, 1000)


def _clock(row: Row) -> str:
    """Mean clock of the counted turns: of the GPU where one computed, else of the cores."""
    timing = shown_timings(row)[0]
    counted = [turn.telemetry for turn in timing.turns if turn.counted] if timing else []
    for name, clocks in (
        ("GPU", [t.gpu_mhz for t in counted if t.gpu_mhz is not None]),
        ("CPU", [t.cpu_mhz for t in counted if t.cpu_mhz is not None]),
    ):
        if clocks and not (name == "GPU" and row.info and row.info.device.startswith("cpu")):
            return f"{name} {figures.number(float(np.mean(clocks)), 2, 1e-3)}"
    return NONE


# --- accuracy in full -------------------------------------------------------------------------


def accuracy_grids(report: Report) -> list[Grid]:
    """IoU of each class and category with its difference to FP32; settings of equal scores once."""
    grids: list[Grid] = []
    for setting in report.settings:
        rows = [row for row in rows_of(report, setting) if row.accuracy and row.accuracy.score]
        height, width = setting.size
        grid = _accuracy_grid(report, rows, f"accuracy at {height}x{width}, %")
        if rows and not any((grid.headings, grid.lines) == (g.headings, g.lines) for g in grids):
            grids.append(grid)
    return grids


def _accuracy_grid(report: Report, rows: list[Row], title: str) -> Grid:
    scores = {row.name: row.accuracy.score for row in rows if row.accuracy and row.accuracy.score}
    native = {
        row.name: row.accuracy.native_score
        for row in rows
        if row.accuracy and row.accuracy.native_score
    }

    def line(name: str, of: dict[str, Score], value: Callable[[Score], float | None]) -> list[str]:
        values = {row: value(score) for row, score in of.items()}
        return [name, *(_beside(values, row) for row in scores)]

    lines = [line("mean IoU", scores, lambda score: score.miou.value)]
    if native:
        lines.append(line("mean IoU at the labels' size", native, lambda score: score.miou.value))
    lines.append(line("pixel accuracy", scores, lambda score: score.pixel_accuracy))
    for index, name in enumerate(report.classes):
        lines.append(line(name, scores, lambda score, index=index: score.class_iou[index]))  # type: ignore[misc]
    for index, name in enumerate(report.categories):
        named = f"category {name}"
        lines.append(line(named, scores, lambda score, index=index: score.category_iou[index]))  # type: ignore[misc]
    headings = ("IoU of", *scores)
    return Grid(title, headings, tuple(map(tuple, lines)), left=("IoU of",))


def _beside(values: dict[str, float | None], name: str) -> str:
    """A share in %, and in brackets how many points it is from the reference's."""
    value, reference = values.get(name), values.get(REFERENCE)
    if value is None or reference is None or name == REFERENCE:
        return figures.percent(value)
    return f"{figures.percent(value)} ({figures.signed(value - reference, scale=100)})"


# --- layers -----------------------------------------------------------------------------------


def layer_grid(report: Report) -> Grid | None:
    """The longest layers of each row, in one table; None where no row has a profile."""
    several = len(report.settings) > 1
    lines = [
        (
            f"{row.name}, {row.setting}" if several else row.name,
            layer.name,
            layer.kind,
            figures.milliseconds(1000 * layer.seconds),
            figures.percent(layer.share, 1),
        )
        for row in report.rows
        for layer in row.layers[:LAYERS_SHOWN]
    ]
    headings = ("artifact", "layer", "kind", "ms", "share %")
    if not lines:
        return None
    return Grid("longest layers", headings, tuple(lines), left=headings[:3])
