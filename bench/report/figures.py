"""Numbers of a record as text: shares in %, times in ms, a dash for what is not known."""

from __future__ import annotations

from collections.abc import Iterable

from dabnet.intervals import Interval

NONE = "–"
"""What the record does not hold."""


def number(value: float | None, decimals: int = 2, scale: float = 1.0) -> str:
    """``value`` times ``scale`` with that many decimals; zero has no sign."""
    if value is None:
        return NONE
    text = f"{scale * value:.{decimals}f}"
    return (text.lstrip("-") if float(text) == 0 else text).replace("-", "−")


def signed(value: float | None, decimals: int = 2, scale: float = 1.0) -> str:
    """As ``number``, with + where the value is above zero."""
    text = number(value, decimals, scale)
    return f"+{text}" if value is not None and value > 0 and float(text) != 0 else text


def percent(share: float | None, decimals: int = 2) -> str:
    """A share in 0…1 in percent, without the sign %."""
    return number(share, decimals, 100.0)


def rate(value: float) -> str:
    """Frames per second, with at least three digits."""
    return number(value, 2 if value < 10 else 1 if value < 1000 else 0)


def milliseconds(value: float) -> str:
    """A time in ms (or as many of another unit); under 1 with three decimals."""
    return number(value, 3 if value < 1 else 2)


def megabytes(count: float | None, decimals: int = 0) -> str:
    """Bytes as MB (10⁶)."""
    return number(count, decimals, 1e-6)


def shares(interval: Interval) -> str:
    """A share in percent with its interval."""
    low, high = percent(interval.low), percent(interval.high)
    return f"{percent(interval.value)} [{low}, {high}]"


def points(interval: Interval) -> str:
    """A difference of shares in percentage points with its interval."""
    low, high = signed(interval.low, scale=100), signed(interval.high, scale=100)
    return f"{signed(interval.value, scale=100)} [{low}, {high}]"


def rates(interval: Interval) -> str:
    """Frames per second with their interval."""
    return f"{rate(interval.value)} [{rate(interval.low)}, {rate(interval.high)}]"


def amounts(interval: Interval, unit: float) -> str:
    """A quantity in another unit with its interval; ``unit``: the factor to it, such as 1000."""
    values = (unit * value for value in (interval.value, interval.low, interval.high))
    value, low, high = map(milliseconds, values)
    return f"{value} [{low}, {high}]"


def ratio(interval: Interval) -> str:
    """A speed ratio with its interval."""
    return f"{interval.value:.2f}× [{interval.low:.2f}, {interval.high:.2f}]"


def parts(text: str) -> tuple[str, str, str]:
    """Split ``2.27× [2.24, 2.31] faster`` into value, interval and the rest; "" for none."""
    value, bracket, tail = text.partition(" [")
    interval, _, rest = tail.partition("]")
    return value, f"[{interval}]" if bracket else "", rest.strip()


def grouped(remarks: Iterable[tuple[str, str]]) -> list[str]:
    """(name, remark) → ``NAME, NAME: remark``, each remark once; without empty ones."""
    names: dict[str, dict[str, None]] = {}
    for name, remark in remarks:
        names.setdefault(remark, {})[name] = None
    return [f"{', '.join(of)}: {remark}" for remark, of in names.items() if remark]
