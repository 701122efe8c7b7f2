"""Time by layer, in one form for every backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from dabnet.runtime.runner import Uint8Array


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer, kernel or operator of what ran, as the backend's own profiler names it.

    Attributes:
        name: of the layer; alike for all calls.
        kind: operator, such as ``Conv``, or the kernel's type.
        seconds: mean of a call.
        share: of the sum over all layers of a call, 0…1.
    """

    name: str
    kind: str
    seconds: float
    share: float


@runtime_checkable
class HasLayerTimes(Protocol):
    """A ``Runner`` that can say where its time goes."""

    def layer_times(self, images: Uint8Array, calls: int) -> tuple[LayerTime, ...]:
        """Run ``calls`` times under the backend's profiler; the longest layer comes first.

        Profiling slows the calls down: its times are for comparing layers, and a row's own time is
        never taken from them.

        Raises:
            BackendUnavailable: this backend has no profile here; the message says why.
        """
        ...


def layer_times(seconds: Sequence[tuple[str, str, float]]) -> tuple[LayerTime, ...]:
    """Return (name, kind, seconds a call) as layers, the longest first, with their shares."""
    total = sum(time for _, _, time in seconds) or 1.0
    ordered = sorted(seconds, key=lambda layer: -layer[2])
    return tuple(LayerTime(name, kind, time, time / total) for name, kind, time in ordered)
