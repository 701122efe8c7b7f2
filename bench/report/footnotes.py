"""What the numbers of a record are of: the lines under its tables."""

from __future__ import annotations

from collections.abc import Iterator

from bench.record import Report, Row, Timing, Turn
from bench.report import figures
from bench.report.cells import CALIBRATION_MARK, TIMING_MARK, is_marked
from bench.report.int8_worth import int8_worth

SCOPE_MEANINGS = {
    "host": "uint8 image in host memory → class mask in host memory, copies included",
    "device": "uint8 image resident where the backend computes → mask resident there",
    "paper": "as DABNet was published: random float input, logits out, one synchronisation after"
    " 100 calls; to be compared with published frame rates, not with other rows",
}

_REPEAT = {
    "disturbed": "close other programs and repeat",
    "throttled": "cool the machine, or fix its clocks lower, and repeat",
}


def footnotes(report: Report) -> list[str]:
    """Return the lines, each a sentence or two."""
    return [
        *_incomplete(report),
        f"{report.model}, {report.checkpoint} ({report.checkpoint_sha256[:12]}); scenario"
        f" {report.scenario.get('name', 'unknown')}; started {report.started or 'unknown'}.",
        *_accuracy(report),
        *(f"Scope {scope}: {SCOPE_MEANINGS.get(scope, 'unknown')}." for scope in _scopes(report)),
        *_rounds(report),
        *_harness(report),
        *_limit(report),
        *_energy(report),
        *_ran(report),
        *int8_worth(report),
        *_arithmetic(report),
        *_calibration(report),
        *_disturbance(report),
        "Machine: "
        + "; ".join(f"{name} {value}" for name, value in report.environment.items())
        + ".",
    ]


def _incomplete(report: Report) -> list[str]:
    if report.complete:
        return []
    return ["INCOMPLETE: the run was stopped before its end; the same command goes on with it."]


def _accuracy(report: Report) -> list[str]:
    of = f"{len(report.images)} images of {report.dataset} {report.split}".rstrip()
    if not report.labelled:
        return [f"Agreement with the reference on {of}, which have no labels."]
    return [
        f"Accuracy: {of}; mIoU and its differences are of images resized to the size that is timed;"
        " intervals: bootstrap over images, of differences paired."
    ]


def timings(report: Report) -> Iterator[tuple[Row, Timing]]:
    """Each timing with samples, with its row."""
    for row in report.rows:
        yield from ((row, timing) for timing in row.timings if timing.latency)


def _interleaved(report: Report) -> Iterator[tuple[Row, Timing]]:
    """Those of the rounds; the scope ``paper`` is timed after them."""
    return ((row, timing) for row, timing in timings(report) if timing.scope != "paper")


def _counted(report: Report) -> Iterator[Turn]:
    for _, timing in timings(report):
        yield from (turn for turn in timing.turns if turn.counted)


def _scopes(report: Report) -> list[str]:
    return list(dict.fromkeys(timing.scope for _, timing in timings(report)))


def _rounds(report: Report) -> list[str]:
    """How many rounds there were, how many were repeated, and how many count in spite of a mark."""
    counted = [sum(turn.counted for turn in timing.turns) for _, timing in _interleaved(report)]
    if not counted:
        return []
    repeated = 0
    for setting in report.settings:  # a repeated round is a turn more in every row that it had
        rows = [timing.turns for row, timing in _interleaved(report) if row.setting == setting]
        repeated += max((sum(not turn.counted for turn in turns) for turns in rows), default=0)
    least, most = min(counted), max(counted)
    rounds = str(most) if least == most else f"{least} to {most}"
    again = f", {repeated} more repeated because something disturbed them" if repeated else ""
    return [
        f"Speed: {rounds} interleaved rounds{again}. Times are of a call with all its frames, FPS"
        " is frames by total time; intervals: Student's t over logarithms of rounds, of ratios"
        " paired."
    ]


def _harness(report: Report) -> list[str]:
    fastest = min(
        (
            (timing.latency.min_ms, row.name)
            for row, timing in _interleaved(report)
            if timing.latency
        ),
        default=None,
    )
    if report.harness_ns is None or fastest is None:
        return []
    share = report.harness_ns / 1e6 / fastest[0]
    return [
        f"The timer itself adds {report.harness_ns / 1e3:.1f} µs to a call:"
        f" {100 * share:.2g} % of the fastest call ({fastest[1]},"
        f" {figures.milliseconds(fastest[0])} ms)."
    ]


def _limit(report: Report) -> list[str]:
    peaks = report.peaks
    if peaks is None or not any(row.limit for row in report.rows):
        return []
    rates = ", ".join(
        f"{figures.number(rate, 1, 1e-9)} G multiply-adds/s in {kind}"
        for kind, rate in peaks.multiply_adds_per_s.items()
    )
    return [
        "% of limit: the least time that the graph's arithmetic and memory traffic take at the"
        f" measured peaks of {peaks.device} ({figures.number(peaks.bytes_per_s, 1, 1e-9)} GB/s,"
        f" {rates}), by the median of the scope device."
    ]


def _energy(report: Report) -> list[str]:
    if all(turn.telemetry.gpu_energy_j is None for turn in _counted(report)):
        return []
    return ["Energy: what NVML says that the GPU took in the counted turns, by their frames."]


def _ran(report: Report) -> list[str]:
    """Backends and devices, and what the reader must know of each row."""
    ran: dict[str, None] = {}
    notes: dict[str, list[str]] = {}
    for row in report.rows:
        if row.info:
            ran[f"{row.info.backend} {row.info.version} on {row.info.device}"] = None
            notes.setdefault(", ".join(row.info.notes), []).append(row.name)
    said = [f"{', '.join(dict.fromkeys(names))}: {note}" for note, names in notes.items() if note]
    return [f"Ran: {'; '.join([*ran, *said])}."] if ran else []


def _arithmetic(report: Report) -> list[str]:
    """A line for each way in which int8 was computed, and how far the timed masks are from it."""
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
        lines.setdefault(line, []).append(row.name)
    return [f"{', '.join(dict.fromkeys(names))}: {line}." for line, names in lines.items()]


def _calibration(report: Report) -> list[str]:
    """What each ``CALIBRATION_MARK`` is about."""
    lines = []
    for row in report.rows:
        if row.accuracy is None or not is_marked(row):
            continue
        overlap = row.accuracy.overlap
        if overlap:
            line = (
                f"calibrated on {len(overlap)} of the {len(report.images)} images that it is scored"
                f" on, such as {overlap[0]}: no measure of its accuracy on new images."
            )
        else:
            line = "calibration images unknown: it may be scored on them."
        lines.append(f"{CALIBRATION_MARK} {row.name}: {line}")
    return list(dict.fromkeys(lines))


def _disturbance(report: Report) -> list[str]:
    """The load of others, and what they slowed down."""
    loads = [turn.telemetry.foreign_cores for turn in _counted(report)]
    known = [load for load in loads if load is not None]
    lines = []
    if known:
        lines.append(
            f"Other processes kept {sum(known) / len(known):.2f} cores busy during the timing"
            f" (at most {max(known):.2f} in one turn)."
        )
    elif loads:
        lines.append("Load of other processes during the timing: unknown on this system.")
    return [*lines, *_marks(report)]


def _marks(report: Report) -> list[str]:
    """What each ``TIMING_MARK`` is about."""
    marked: dict[str, list[str]] = {}
    several = len(report.settings) > 1
    for row, timing in timings(report):
        turns = [turn for turn in timing.turns if turn.counted and turn.marks]
        for mark in sorted({mark for turn in turns for mark in turn.marks}):
            number = sum(mark in turn.marks for turn in turns)
            where = f", {row.setting}" if several else ""
            marked.setdefault(mark, []).append(f"{row.name} ({timing.scope}{where}: {number})")
    return [
        f"{TIMING_MARK} {mark.upper()}, with the number of rounds that count in spite of it:"
        f" {', '.join(names)}: do not quote these speeds; {_REPEAT.get(mark, 'repeat')}."
        for mark, names in marked.items()
    ]
