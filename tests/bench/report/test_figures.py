"""Numbers of a record as text."""

from __future__ import annotations

from bench.report.figures import number, signed


def test_zero_has_no_sign() -> None:
    assert [number(value) for value in (-0.001, -1.5, None)] == ["0.00", "−1.50", "–"]
    signs = [signed(value) for value in (0.001, -0.001, 1.5, -1.5)]
    assert signs == ["0.00", "0.00", "+1.50", "−1.50"]
