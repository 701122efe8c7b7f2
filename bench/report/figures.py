"""Numbers of a record as text: shares in %, times in ms, a dash for what is not known."""

from __future__ import annotations

from bench.record import Row, Timing
from bench.statistics import Latency
from dabnet.intervals import Interval

NONE = "–"
"""What the record does not hold."""


def number(value: float | None, decimals: int = 2, scale: float = 1.0) -> str:
    """``value`` times ``scale``, with so many decimals; zero has no sign."""
    if value is None:
        return NONE
    text = f"{scale * value:.{decimals}f}"
    return (text.lstrip("-") if float(text) == 0 else text).replace("-", "−")


def signed(value: float | None, decimals: int = 2, scale: float = 1.0) -> str:
    """As ``number``, with + where it is above zero."""
    text = number(value, decimals, scale)
    return f"+{text}" if value is not None and value > 0 and float(text) != 0 else text


def percent(share: float | None, decimals: int = 2) -> str:
    """A share in 0…1 as %, without the sign %."""
    return number(share, decimals, 100.0)


def points(interval: Interval) -> str:
    """A difference of shares in percentage points with its interval."""
    low, high = signed(interval.low, scale=100), signed(interval.high, scale=100)
    return f"{signed(interval.value, scale=100)} [{low}, {high}]"


def ratio(interval: Interval) -> str:
    """A speed ratio with its interval."""
    return f"{interval.value:.2f}× [{interval.low:.2f}, {interval.high:.2f}]"


def rate(value: float | None) -> str:
    """Frames a second, with three digits or more."""
    return NONE if value is None else number(value, 2 if value < 10 else 1 if value < 1000 else 0)


def milliseconds(value: float | None) -> str:
    """A time in ms; under 1 ms with microseconds."""
    return NONE if value is None else number(value, 3 if value < 1 else 2)


def megabytes(count: int | None, decimals: int = 0) -> str:
    """Bytes as MB (10⁶)."""
    return number(count, decimals, 1e-6)


def latency(row: Row, scope: str) -> Latency | None:
    """The latencies of that scope, if there are any."""
    timing = row.timing(scope)
    return timing.latency if timing else None


def energy_per_frame_j(row: Row, scope: str) -> float | None:
    """Energy of the GPU over the frames of the counted turns; None unless known of each turn."""
    timing = row.timing(scope)
    counted = [turn for turn in timing.turns if turn.counted] if timing else []
    energies = [turn.telemetry.gpu_energy_j for turn in counted]
    known = [energy for energy in energies if energy is not None]
    frames = row.setting.batch * sum(len(turn.samples_ns) for turn in counted)
    return sum(known) / frames if frames and len(known) == len(counted) else None


def marked(timing: Timing, counted: bool) -> int:
    """How many turns carry a mark, of those that are counted, or of those that are not."""
    return sum(1 for turn in timing.turns if turn.marks and turn.counted is counted)


def elided(text: str, length: int) -> str:
    """``text``, with its middle left out where it is longer than so many characters."""
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return f"{text[: length - 1 - tail]}…{text[-tail:]}"
