"""Notes under the tables of a record: what was measured, and which numbers not to quote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from bench.record import PAPER, Report, Row, Subject, Telemetry, Timing
from bench.record.camera import MOST_LATE, RESOLUTION
from bench.record.speed import WITHIN, Compared, by_speed, compared, to_reference
from bench.record.timing import CAMERA
from bench.report import figures
from bench.report.columns import (
    BROKEN,
    SEEN_MARK,
    TIMING_MARK,
    agreement,
    counted,
    is_broken,
    is_marked,
    rows_of,
)
from bench.report.figures import grouped, milliseconds, number, percent
from bench.statistics import EQUAL, NOT_TOLD, SLOWER, relative_width
from dabnet.precision import INT8, PRECISIONS
from dabnet.runtime.runner import SCOPES

SCOPE_MEANINGS = {
    "host": "uint8 image in host memory → class mask in host memory, copies included",
    "device": "uint8 image resident where the backend computes → mask resident there",
    "events": "the same between two CUDA events, by the clock of the GPU; gaps between its kernels"
    " count, what the host does before and behind the run does not",
    CAMERA: "frame that arrives by a clock of its own → mask in host memory, waiting included",
    PAPER: "as DABNet was published: random float input, logits out, one synchronisation after"
    " 100 calls; comparable with published frame rates, not with other rows",
}


def notes(report: Report) -> list[str]:
    """Return the lines, each of one or two sentences."""
    timings = [(row, t) for row in report.rows for t in row.timings if t.latency]
    scopes = dict.fromkeys(timing.scope for _, timing in timings)
    machine = "; ".join(f"{name} {value}" for name, value in report.environment.items())
    return [
        *_run(report),
        *(f"Scope {scope}: {SCOPE_MEANINGS.get(scope, 'unknown')}." for scope in scopes),
        *_speed(report, [(row, timing) for row, timing in timings if timing.scope != PAPER]),
        *map(broken, filter(is_broken, report.rows)),
        *_camera(report, [timing for _, timing in timings if timing.scope == CAMERA]),
        *_target(report),
        *_limit(report),
        *_ran(report),
        *_not_told(report),
        *int8_worth(report),
        *grouped((row.name, _arithmetic(row)) for row in report.rows),
        *dict.fromkeys(seen(report, row) for row in report.rows if is_marked(row)),
        *_telemetry([timing for _, timing in timings]),
        *_marks(timings, several=len(report.settings) > 1),
        f"Machine: {machine}.",
    ]


def _run(report: Report) -> Iterator[str]:
    if not report.complete:
        yield "INCOMPLETE: the run was stopped; the same command continues it."
    subjects = "; ".join(map(subject_text, report.subjects))
    yield (
        f"{subjects}; scenario {report.scenario.get('name', 'unknown')};"
        f" started {report.started or 'unknown'}."
    )
    if len(report.subjects) > 1:
        bases = dict.fromkeys(r.name for s in report.settings if (r := report.reference(s)))
        yield (
            f"Speed ratios are to {' and '.join(bases) or 'no row, without PyTorch FP32'};"
            " differences of mIoU and agreement are to PyTorch FP32 of the same model."
        )
    if any(subject.untrained for subject in report.subjects):
        yield "Untrained: random weights, which cost the time of trained ones; no accuracy."
    if not report.images:
        return
    many = "1 image" if len(report.images) == 1 else f"{len(report.images)} images"
    of = f"{many} of {report.dataset} {report.split}".rstrip()
    if report.labelled:
        yield (
            f"Accuracy: {of}, resized to the size that is timed; intervals: bootstrap over images,"
            " paired for differences."
        )
    else:
        yield f"Agreement with the reference on {of}, which have no labels."


def subject_text(subject: Subject) -> str:
    """Network, file and what it was trained on."""
    named = f"{subject.label}: " if subject.label != subject.model else ""
    trained = f", trained on {subject.dataset}" if subject.dataset else ""
    if subject.untrained:
        return f"{named}{subject.model} (untrained)"
    return f"{named}{subject.model}, {subject.file} ({subject.sha256[:12]}){trained}"


def _speed(report: Report, timings: list[tuple[Row, Timing]]) -> Iterator[str]:
    """Number of rounds and of those that were repeated, and what the timer adds.

    Args:
        timings: of the rounds; the scope ``paper`` is timed after them.
    """
    if not timings:
        return
    repeated = dict.fromkeys(report.settings, 0)  # a repeated round is one more turn of each row
    for row, timing in timings:
        more = len(timing.turns) - len(counted(timing))
        repeated[row.setting] = max(repeated[row.setting], more)
    rounds = sorted({len(counted(timing)) for _, timing in timings})
    many = sum(repeated.values())
    again = f", {many} more repeated because something disturbed them" if many else ""
    yield (
        f"Speed: {' to '.join(map(str, dict.fromkeys((rounds[0], rounds[-1]))))} interleaved"
        f" rounds{again}. Times are per call with all its frames, FPS is frames over total time;"
        " intervals: Student's t over logarithms of rounds, paired for ratios."
    )
    least, name = min((t.latency.min_ms, row.name) for row, t in timings if t.latency)
    if report.harness_ns is not None:
        yield (
            f"The timer itself adds {report.harness_ns / 1e3:.1f} µs to a call:"
            f" {report.harness_ns / 1e4 / least:.2g} % of the fastest call ({name},"
            f" {milliseconds(least)} ms)."
        )


def _camera(report: Report, timings: list[Timing]) -> Iterator[str]:
    """How frames arrived, and what the figures of the table of cameras are."""
    turns = [turn for timing in timings for turn in counted(timing) if turn.frames]
    if not turns:
        return
    many = {(turn.frames.cameras, turn.frames.fps) for turn in turns if turn.frames}
    (cameras, fps), *_ = many
    yield (
        f"Camera: {cameras} {'camera' if cameras == 1 else 'cameras'} of {fps:g} FPS; a mask is due"
        f" {milliseconds(1000 / fps)} ms after the arrival of its frame. A camera's newest frame"
        " replaces one that waits, which is dropped. Missed: late or dropped; percentiles: of"
        " frames with a mask. Intervals: binomial, with as many independent frames as the rounds"
        " show."
    )
    yield (
        "Keeps: highest rate of each camera at which a window drops no frame and at most"
        f" {percent(MOST_LATE, 0)} % of its masks are late; searched again and again to"
        f" {percent(RESOLUTION, 0)} %, interval over searches."
    )
    known = [turn.telemetry for turn in turns]
    told = {
        "CPU, of all its packages (RAPL), idle time and other processes included": "cpu_energy_j",
        "GPU, of the whole card (NVML), idle time included": "gpu_energy_j",
    }
    found = [what for what, key in told.items() if all(getattr(t, key) is not None for t in known)]
    yield f"Energy per mask: {'; '.join(found) or 'not available on this machine'}."


def _target(report: Report) -> Iterator[str]:
    """Whether the target width was reached."""
    target = report.scenario.get("target_width")
    if not isinstance(target, (int, float)) or not report.complete:
        return
    timed = [(row, timing) for row in report.rows if not row.reason for timing in row.timings]
    wide = {
        f"{row.name} ({timing.scope}, {row.setting}: {percent(width, 1)} %)": None
        for row, timing in timed
        if timing.speed_ratio and (width := relative_width(timing.speed_ratio)) > target
    }
    reached = "reached" if any(timing.speed_ratio for _, timing in timed) else "no row to compare"
    rounds = max((len(counted(timing)) for _, timing in timed), default=0)
    bound = f"{rounds} rounds, at most {report.scenario.get('max_minutes')} minutes"
    late = f"NOT REACHED in {bound}: {', '.join(wide)}"
    yield f"Target width of the speed ratios, {percent(target, 1)} %: {late if wide else reached}."


def _limit(report: Report) -> Iterator[str]:
    peaks = report.peaks
    if peaks is None or not any(row.limit for row in report.rows):
        return
    rates = peaks.multiply_adds_per_s.items()
    said = ", ".join(f"{number(r, 1, 1e-9)} G multiply-adds/s in {kind}" for kind, r in rates)
    if cache := peaks.cache:
        size = f"{number(cache.size_bytes, 1, 1e-6)} MB"
        said = f"{number(cache.bytes_per_s, 1, 1e-9)} GB/s within its cache of {size}, {said}"
    yield (
        "% of limit: the minimum time of the graph's arithmetic and memory traffic at the peaks of"
        f" {peaks.device}, measured {peaks.measured} ({number(peaks.bytes_per_s, 1, 1e-9)} GB/s,"
        f" {said}), over the median of the scope device."
    )


def _ran(report: Report) -> Iterator[str]:
    """Backends and devices, and the remarks of each row."""
    infos = [(row.name, row.info) for row in report.rows if row.info]
    ran = dict.fromkeys(f"{info.backend} {info.version} on {info.device}" for _, info in infos)
    remarks = grouped((name, ", ".join(info.remarks)) for name, info in infos)
    if infos:
        yield f"Ran: {'; '.join([*ran, *remarks])}."


def _arithmetic(row: Row) -> str:
    """The arithmetic of an int8 row, and how far the timed masks are from it; else ""."""
    accuracy = row.accuracy
    if accuracy is None or not accuracy.arithmetic or row.info is None:
        return ""
    line = f"accuracy in {accuracy.arithmetic}"
    if accuracy.timed_agreement is not None:
        line += (
            f"; timed were {row.info.arithmetic or 'other kernels'}: the same mask on"
            f" {100 * accuracy.timed_agreement:.2f} % of pixels"
        )
        if accuracy.timed_miou is not None:
            line += f" (mIoU {percent(accuracy.timed_miou)})"
    if accuracy.calibrated_on:
        line += f"; calibrated on {accuracy.calibrated_on}"
    return f"{line}."


def seen(report: Report, row: Row) -> str:
    """What the ``SEEN_MARK`` of a row means."""
    start = f"{SEEN_MARK} {row.name}:"
    overlap = row.accuracy.overlap if row.accuracy else ()
    if row.accuracy and row.accuracy.trained_on:
        return (
            f"{start} trained on {row.accuracy.trained_on}, which holds images that it is scored"
            " on: its score does not measure accuracy on new images."
        )
    if not overlap:
        return f"{start} calibration images unknown: it may be scored on them."
    return (
        f"{start} calibrated on {len(overlap)} of the {len(report.images)} images that it is scored"
        f" on, such as {overlap[0]}: its score does not measure accuracy on new images."
    )


def broken(row: Row) -> str:
    """What ``BROKEN`` beside a row means."""
    precision = row.info.precision if row.info else ""
    allowed = 100 * PRECISIONS[precision].sound_agreement
    return (
        f"{BROKEN} {row.name}: its masks equal those of PyTorch FP32 on"
        f" {percent(agreement(row) or 0.0)} % of pixels; sound {precision} rows agree on at least"
        f" {allowed:g} %. This speed belongs to a wrong result."
    )


def _telemetry(timings: list[Timing]) -> Iterator[str]:
    found = [turn.telemetry for timing in timings for turn in counted(timing)]
    yield from _gpu_telemetry(found)
    loads = [load for telemetry in found if (load := telemetry.foreign_cores) is not None]
    if loads:
        yield (
            f"Other processes kept {sum(loads) / len(loads):.2f} cores busy during the timing"
            f" (at most {max(loads):.2f} in one turn)."
        )
    elif found:
        yield "Load of other processes during the timing: unknown on this system."


def _gpu_telemetry(found: list[Telemetry]) -> Iterator[str]:
    """What NVML reports, each where it is known."""
    if any(telemetry.gpu_energy_j is not None for telemetry in found):
        yield "Energy: what NVML reports for the GPU over the counted turns, per frame."
    if many := Counter(reason for telemetry in found for reason in telemetry.clock_reasons):
        reasons = ", ".join(f"{reason} ({count})" for reason, count in many.most_common())
        yield (
            f"Clocks of the GPU were decided by {reasons}, each with its number of turns out of"
            f" {len(found)}; SwPowerCap is the power limit of the card."
        )
    shares = [share for telemetry in found if (share := telemetry.gpu_foreign_share) is not None]
    if shares:
        yield (
            "Other processes kept the GPU busy during"
            f" {percent(sum(shares) / len(shares), 1)} % of the timing"
            f" (at most {percent(max(shares), 1)} % of one turn;"
            f" known of {len(shares)} turns out of {len(found)})."
        )


def _marks(timings: list[tuple[Row, Timing]], several: bool) -> Iterator[str]:
    """What each ``TIMING_MARK`` means, with the setting of a row where there are several."""
    found: dict[str, list[str]] = {}
    for row, timing in timings:
        where = f"{timing.scope}, {row.setting}" if several else timing.scope
        for mark in timing.marks:
            many = sum(mark in turn.marks for turn in counted(timing))
            found.setdefault(mark, []).append(f"{row.name} ({where}: {many})")
    for mark, names in found.items():
        yield (
            f"{TIMING_MARK} {mark.upper()}, with the number of rounds that count in spite of it:"
            f" {', '.join(names)}: do not quote these speeds; close other programs, cool the"
            " machine or lower its clocks, and repeat."
        )


def _not_told(report: Report) -> Iterator[str]:
    """What would tell rows from the reference of their setting that these rounds do not."""
    for setting in report.settings:
        base, found = report.reference(setting), []
        for row in rows_of(report, setting):
            timing = row.timing("host") or row.timing("device")
            if timing and timing.speed_ratio and not is_broken(row):
                pair = to_reference(timing)
                if pair.verdict == NOT_TOLD:
                    found.append(f"{row.name} ({pair.more})")
        if base and found:
            where = f" at {setting}" if len(report.settings) > 1 else ""
            yield (
                f"Not told apart from {base.name}{where}: measure more: {', '.join(found)}. An"
                " estimate: intervals narrow with the square root of the rounds. Raise --rounds"
                " and --min-time alike."
            )


def int8_worth(report: Report) -> list[str]:
    """One line per INT8 row that is not surely faster than the fastest float row of its backend.

    Rows of one setting are compared, in the scope ``host`` where both have it, by the rule of
    ``bench.statistics.verdict``. A row without rounds to compare has no line.
    """
    lines = []
    for row in report.rows:
        if is_broken(row):
            continue
        where = f"at {row.setting}" if len(report.settings) > 1 else "here"
        if found := _fastest_float(report, row):
            name, pair = found
            ratio = f"({figures.ratio(pair.ratio)} its speed)" if pair.ratio else ""
            said = {
                SLOWER: f"{row.name} is slower than {name} {where} {ratio}: ship {name}.",
                EQUAL: f"{row.name} is as fast as {name} {where} {WITHIN} {ratio}: INT8 saves no"
                " time.",
                NOT_TOLD: f"{row.name} and {name} are {NOT_TOLD} {where} {ratio}: measure more,"
                f" {pair.more}.",
            }
            lines += [said[pair.verdict]] if pair.verdict in said else []
    return lines


def _fastest_float(report: Report, row: Row) -> tuple[str, Compared] | None:
    """The fastest float row beside an INT8 row, and the speed of INT8 relative to it."""
    before, is_int8, after = row.on.partition(f"-{INT8}")
    suffix = "" if after.removeprefix("-") in PRECISIONS else after  # what int8 leaves in float
    others = PRECISIONS if is_int8 else ()
    names = {f"{before}-{name}{suffix}" for name in others if name != INT8}
    rows = [r for r in rows_of(report, row.setting) if r.of == row.of and r.on in names]
    floats = [other for other in rows if not is_broken(other)]
    for scope in SCOPES:
        known = [(r.name, t) for r in by_speed(floats, scope) if (t := r.timing(scope)) and t.turns]
        if known and (timing := row.timing(scope)):
            name, fastest = known[0]
            pair = compared(timing, fastest)
            if pair.ratio:
                return name, pair
    return None
