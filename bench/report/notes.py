"""The lines under the tables of a record: what its numbers are of, and when not to quote them."""

from __future__ import annotations

from collections.abc import Iterator

from bench.record import PAPER, Report, Row, Timing, Turn
from bench.record.timing import speed_ratio
from bench.report import figures
from bench.report.columns import CALIBRATION_MARK, TIMING_MARK, is_marked, rows_of
from bench.statistics import verdict
from dabnet.runtime.runner import SCOPES

SCOPE_MEANINGS = {
    "host": "uint8 image in host memory → class mask in host memory, copies included",
    "device": "uint8 image resident where the backend computes → mask resident there",
    PAPER: "as DABNet was published: random float input, logits out, one synchronisation after"
    " 100 calls; comparable with published frame rates, not with other rows",
}

_REPEAT = {
    "disturbed": "close other programs and repeat",
    "throttled": "cool the machine, or fix its clocks lower, and repeat",
}


def notes(report: Report) -> list[str]:
    """Return the lines, each of one or two sentences."""
    machine = "; ".join(f"{name} {value}" for name, value in report.environment.items())
    return [
        *_run(report),
        *(f"Scope {scope}: {SCOPE_MEANINGS.get(scope, 'unknown')}." for scope in _scopes(report)),
        *_rounds(report),
        *_harness(report),
        *_limit(report),
        *_energy(report),
        *_ran(report),
        *int8_worth(report),
        *_arithmetic(report),
        *dict.fromkeys(calibration(report, row) for row in report.rows if is_marked(row)),
        *_load(report),
        *_marks(report),
        f"Machine: {machine}.",
    ]


def _run(report: Report) -> Iterator[str]:
    if not report.complete:
        yield "INCOMPLETE: the run was stopped; the same command continues it."
    yield (
        f"{report.model}, {report.checkpoint} ({report.checkpoint_sha256[:12]}); scenario"
        f" {report.scenario.get('name', 'unknown')}; started {report.started or 'unknown'}."
    )
    of = f"{len(report.images)} images of {report.dataset} {report.split}".rstrip()
    if report.labelled:
        yield (
            f"Accuracy: {of}, resized to the size that is timed; intervals: bootstrap over images,"
            " paired for differences."
        )
    else:
        yield f"Agreement with the reference on {of}, which have no labels."


def _timings(report: Report) -> Iterator[tuple[Row, Timing]]:
    """Each timing that has samples, with its row."""
    for row in report.rows:
        yield from ((row, timing) for timing in row.timings if timing.latency)


def _interleaved(report: Report) -> Iterator[tuple[Row, Timing]]:
    """The timings of the rounds; the scope ``paper`` is timed after them."""
    return ((row, timing) for row, timing in _timings(report) if timing.scope != PAPER)


def _counted(report: Report) -> list[Turn]:
    return [turn for _, timing in _timings(report) for turn in timing.turns if turn.counted]


def _scopes(report: Report) -> list[str]:
    return list(dict.fromkeys(timing.scope for _, timing in _timings(report)))


def _rounds(report: Report) -> Iterator[str]:
    """How many rounds there were, and how many were repeated."""
    counted = [sum(turn.counted for turn in timing.turns) for _, timing in _interleaved(report)]
    if not counted:
        return
    repeated = 0
    for setting in report.settings:  # a repeated round is one more turn in each of its rows
        rows = [timing.turns for row, timing in _interleaved(report) if row.setting == setting]
        repeated += max((sum(not turn.counted for turn in turns) for turns in rows), default=0)
    least, most = min(counted), max(counted)
    rounds = str(most) if least == most else f"{least} to {most}"
    again = f", {repeated} more repeated because something disturbed them" if repeated else ""
    yield (
        f"Speed: {rounds} interleaved rounds{again}. Times are per call with all its frames, FPS is"
        " frames over total time; intervals: Student's t over logarithms of rounds, paired for"
        " ratios."
    )


def _harness(report: Report) -> Iterator[str]:
    fastest = min(
        ((t.latency.min_ms, row.name) for row, t in _interleaved(report) if t.latency),
        default=None,
    )
    if report.harness_ns is not None and fastest is not None:
        yield (
            f"The timer itself adds {report.harness_ns / 1e3:.1f} µs to a call:"
            f" {report.harness_ns / 1e4 / fastest[0]:.2g} % of the fastest call ({fastest[1]},"
            f" {figures.milliseconds(fastest[0])} ms)."
        )


def _limit(report: Report) -> Iterator[str]:
    peaks = report.peaks
    if peaks is None or not any(row.limit for row in report.rows):
        return
    rates = ", ".join(
        f"{figures.number(rate, 1, 1e-9)} G multiply-adds/s in {kind}"
        for kind, rate in peaks.multiply_adds_per_s.items()
    )
    yield (
        "% of limit: the minimum time of the graph's arithmetic and memory traffic at the measured"
        f" peaks of {peaks.device} ({figures.number(peaks.bytes_per_s, 1, 1e-9)} GB/s, {rates}),"
        " over the median of the scope device."
    )


def _energy(report: Report) -> Iterator[str]:
    if any(turn.telemetry.gpu_energy_j is not None for turn in _counted(report)):
        yield "Energy: what NVML reports for the GPU over the counted turns, per frame."


def _ran(report: Report) -> Iterator[str]:
    """Backends and devices, and the remarks of each row."""
    ran: dict[str, None] = {}
    remarks: dict[str, list[str]] = {}
    for row in report.rows:
        if row.info:
            ran[f"{row.info.backend} {row.info.version} on {row.info.device}"] = None
            remarks.setdefault(", ".join(row.info.notes), []).append(row.name)
    said = [f"{', '.join(dict.fromkeys(names))}: {note}" for note, names in remarks.items() if note]
    if ran:
        yield f"Ran: {'; '.join([*ran, *said])}."


def _arithmetic(report: Report) -> Iterator[str]:
    """One line per arithmetic of int8, and how far the timed masks are from it."""
    lines: dict[str, list[str]] = {}
    for row in report.rows:
        accuracy = row.accuracy
        if accuracy is None or not accuracy.arithmetic or row.info is None:
            continue
        line = f"accuracy in {accuracy.arithmetic}"
        if accuracy.timed_agreement is not None:
            line += (
                f"; timed were {row.info.arithmetic or 'other kernels'}: the same mask on"
                f" {100 * accuracy.timed_agreement:.2f} % of pixels"
            )
            if accuracy.timed_miou is not None:
                line += f" (mIoU {figures.percent(accuracy.timed_miou)})"
        if accuracy.calibrated_on:
            line += f"; calibrated on {accuracy.calibrated_on}"
        lines.setdefault(line, []).append(row.name)
    yield from (f"{', '.join(dict.fromkeys(names))}: {line}." for line, names in lines.items())


def calibration(report: Report, row: Row) -> str:
    """What the ``CALIBRATION_MARK`` of a row means."""
    overlap = row.accuracy.overlap if row.accuracy else ()
    if not overlap:
        return (
            f"{CALIBRATION_MARK} {row.name}: calibration images unknown: it may be scored on them."
        )
    return (
        f"{CALIBRATION_MARK} {row.name}: calibrated on {len(overlap)} of the {len(report.images)}"
        f" images that it is scored on, such as {overlap[0]}: no measure of its accuracy on new"
        " images."
    )


def _load(report: Report) -> Iterator[str]:
    loads = [turn.telemetry.foreign_cores for turn in _counted(report)]
    known = [load for load in loads if load is not None]
    if known:
        yield (
            f"Other processes kept {sum(known) / len(known):.2f} cores busy during the timing"
            f" (at most {max(known):.2f} in one turn)."
        )
    elif loads:
        yield "Load of other processes during the timing: unknown on this system."


def _marks(report: Report) -> Iterator[str]:
    """What each ``TIMING_MARK`` means."""
    found: dict[str, list[str]] = {}
    several = len(report.settings) > 1
    for row, timing in _timings(report):
        turns = [turn for turn in timing.turns if turn.counted and turn.marks]
        for mark in sorted({mark for turn in turns for mark in turn.marks}):
            number = sum(mark in turn.marks for turn in turns)
            where = f", {row.setting}" if several else ""
            found.setdefault(mark, []).append(f"{row.name} ({timing.scope}{where}: {number})")
    for mark, names in found.items():
        yield (
            f"{TIMING_MARK} {mark.upper()}, with the number of rounds that count in spite of it:"
            f" {', '.join(names)}: do not quote these speeds; {_REPEAT.get(mark, 'repeat')}."
        )


# --- whether INT8 buys time -------------------------------------------------------------------


def int8_worth(report: Report) -> list[str]:
    """One line per INT8 row that is not faster than the fastest float row of its backend.

    Rows of one setting are compared, in the scope ``host`` where both have it. A row without
    rounds to compare has no line.
    """
    lines = []
    for setting in report.settings:
        where = f"at {setting}" if len(report.settings) > 1 else "here"
        rows = {row.name: row for row in rows_of(report, setting)}
        for name, row in rows.items():
            backend, _, precision = name.rpartition("-")
            floats = [rows[f"{backend}-{p}"] for p in ("fp16", "fp32") if f"{backend}-{p}" in rows]
            judged = (_worth(row, floats, scope, where) for scope in SCOPES)
            line = next((line for line in judged if line is not None), "")
            if precision == "int8" and line:
                lines.append(line)
    return lines


def _worth(row: Row, floats: list[Row], scope: str, where: str) -> str | None:
    """The line of ``row`` in this scope; "" if it is faster, None if the record cannot tell."""
    timed = row.timing(scope)
    others = {other.name: timing for other in floats if (timing := other.timing(scope))}
    if timed is None or not others:
        return None
    best = min(others, key=lambda name: _median_ms(others[name]))
    ratio = speed_ratio(others[best].turns, timed.turns)
    if ratio is None:
        return None
    if verdict(ratio) == "faster":
        return ""
    return (
        f"{row.name} is not faster than {best} {where} ({ratio.value:.2f}"
        f" [{ratio.low:.2f}, {ratio.high:.2f}] times its speed): ship {best}."
    )


def _median_ms(timing: Timing) -> float:
    return timing.latency.p50_ms if timing.latency else float("inf")
