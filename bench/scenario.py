"""What is timed, and how long."""

from __future__ import annotations

from dataclasses import dataclass

from dabnet.errors import InputError
from dabnet.runtime.runner import SCOPES

NAMES = ("latency", "throughput")

# An engine for a large batch may take minutes to load and a compiler minutes to warm up.
CALL_TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """How calls are made and counted.

    Attributes:
        name: ``latency``: one call at a time; ``throughput``: batches and concurrent streams.
        scopes: of each row; see ``dabnet.runtime.runner``.
        rounds: how often each backend has its turn in each scope.
        min_time_s: least time of all turns of a row in one scope; a turn has at least 3 calls.
        warmup_s: bound on the warm-up of each row.
        most_repeats: how many rounds may be repeated because something disturbed them.
        timeout_s: of one answer of a backend's process, its load and warm-up included.
        seed: of the order of the backends.
    """

    name: str = "latency"
    scopes: tuple[str, ...] = SCOPES
    rounds: int = 10
    min_time_s: float = 10.0
    warmup_s: float = 10.0
    most_repeats: int = 5
    timeout_s: float = CALL_TIMEOUT_S
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise InputError(f"scenario {self.name!r}", "one of " + ", ".join(NAMES))
        if unknown := set(self.scopes) - set(SCOPES):
            raise InputError(f"scope {min(unknown)!r}", "one of " + ", ".join(SCOPES))
        if self.rounds < 2:
            raise InputError(f"{self.rounds} rounds", "at least 2: one round has no interval")

    @property
    def turn_s(self) -> float:
        """Time of one turn."""
        return self.min_time_s / self.rounds
